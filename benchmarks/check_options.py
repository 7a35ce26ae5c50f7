"""Runs few tiny cases that hold every pair of options, and compares them with one device.

    python -m benchmarks.check_options --folder=/tmp/options --output=docs/options.md

Each case trains, through `launch.main`, on four or eight simulated devices and on one; a pair that
is refused must be so in one line, with exit code 2 and nothing written. The exit code is 1 if any
did otherwise. What is there already in the folder is not run again, and a case that ends its
process loses no other.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping

from benchmarks import options, quick_compilation

_ONE_LINE = "error: "
_CASES_A_PROCESS, _SECONDS_A_CASE = 12, 600
_EXACT, _ROUNDED = 2e-4, 5e-2  # What a number may differ by, as a part of it.


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="the page to write")
    parser.add_argument("--devices", type=int, help="run what due-DEVICES.json says, on so many")
    parser.add_argument("--names", default="", help="of what is run, with commas; all if not given")
    given = parser.parse_args(argv)
    if given.devices:
        work(given.folder, given.devices)
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    wanted = options.all_pairs()
    cases, refused = options.covering(wanted), options.refused_cases()
    due = {f"case-{i}": case for i, case in enumerate(cases)}
    due |= {f"refused-{i}": case for i, case in enumerate(refused.values())}
    due = {name: due[name] for name in given.names.split(",") if name} or due
    for num_devices in (1, *map(int, options.OPTIONS["devices"])):
        start(given.folder, num_devices, due)
    found = results(given.folder)
    problems = [problem for name, case in due.items() for problem in wrong(name, case, found[name])]
    print("\n".join(problems))
    print(f"{len(due)} cases, {len(problems)} problems")
    if given.output and not problems:
        lines = {pair: line_of(found[f"refused-{i}"]) for i, pair in enumerate(refused)}
        text = page(len(cases), len(wanted), lines, rests_on(due, found))
        given.output.write_text(text)
    return 1 if problems else 0


def start(folder: pathlib.Path, num_devices: int, due: Mapping[str, options.Case]) -> None:
    """Runs what is due on so many devices and has no result yet.

    In processes of their own, since JAX counts devices once, of few cases each, since it keeps what
    it compiled; what is refused compiles nothing. Where a process ends badly, so did the first case
    that it leaves without a result.
    """
    flag = f"--xla_force_host_platform_device_count={num_devices}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "LM_CACHE": os.environ.get("LM_CACHE", f"{folder}/cache"),
        "XLA_FLAGS": f"{quick_compilation.FLAGS} {os.environ.get('XLA_FLAGS', '')} {flag}",
    }
    module = (sys.executable, "-m", "benchmarks.check_options")
    command = (*module, f"--devices={num_devices}", f"--folder={folder}")
    while left := not_done(folder, num_devices, due):
        few = [name for name in left if "refused" not in name][:_CASES_A_PROCESS]
        left = [*few, *(name for name in left if "refused" in name)]
        now = json.dumps({name: due[name] for name in left})
        (folder / f"due-{num_devices}.json").write_text(now)
        try:
            code = subprocess.run(command, env=env, timeout=_SECONDS_A_CASE * len(left)).returncode
        except subprocess.TimeoutExpired:
            code = None
        left = not_done(folder, num_devices, {name: due[name] for name in left})
        if code != 0 and left:
            end = {"code": code, "line": "the process ended, or had to be ended"}
            one = {"ended": [end], "numbers": {}, "written": True}
            note(folder, left[0], num_devices, due[left[0]], one)


def not_done(folder: pathlib.Path, num_devices: int, due: Mapping[str, options.Case]) -> list[str]:
    """Of what is due, the names of what runs on so many devices and has no result."""
    done = results(folder)
    return [
        name
        for name, case in due.items()
        if num_devices == int(case["devices"]) or (num_devices == 1 and "refused" not in name)
        if done[name].get(num_devices, {}).get("case") != case
    ]


def note(
    folder: pathlib.Path, name: str, num_devices: int, case: options.Case, one: Mapping
) -> None:
    """Adds what came of a case to the results."""
    line = json.dumps({"name": name, "devices": num_devices, "case": case, **one})
    with (folder / f"results-{num_devices}.jsonl").open("a") as file:
        file.write(f"{line}\n")


def results(folder: pathlib.Path) -> dict[str, dict[int, dict]]:
    """What came of each case by its name and the number of devices."""
    found: dict[str, dict] = collections.defaultdict(dict)
    for path in sorted(folder.glob("results-*.jsonl")):
        for line in path.read_text().splitlines():
            one = json.loads(line)
            found[one["name"]][one["devices"]] = one
    return found


def work(folder: pathlib.Path, num_devices: int) -> None:
    """Runs the cases that `start` wrote down for so many devices, which this process has."""
    import jax  # Here, since the other process needs none.

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # Fewer cores than devices.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    from benchmarks import option_runs

    if not (folder / "train.txt").exists():
        option_runs.write_files(folder)
    for name, case in json.loads((folder / f"due-{num_devices}.json").read_text()).items():
        one = option_runs.train(case, folder, name, num_devices=num_devices)
        note(folder, name, num_devices, case, one)
        print(f"{name} on {num_devices}: {[end['code'] for end in one['ended']]}", flush=True)


def wrong(name: str, case: options.Case, found: Mapping[int, dict]) -> list[str]:
    """What is wrong with a case: how it ended, or numbers unlike those of one device."""
    if name.startswith("refused"):
        return [problem] if (problem := not_refused(name, found)) else []
    problems = [
        f"{name} on {num_devices}: {end['code']}: {end['line']}"
        for num_devices, one in sorted(found.items())
        for end in one["ended"]
        if end["code"] != 0
    ]
    alone, many = both(case, found)
    if not problems and (alone.keys() != many.keys() or not alone):
        problems = [f"{name}: logs {sorted(alone.keys() ^ many.keys())[:4]}"]
    for key, difference in differences(case, found).items():
        if not difference <= (_EXACT if is_exact(case) else _ROUNDED):
            problems.append(f"{name}: {key} is {many[key]:.7g}, and on one device {alone[key]:.7g}")
    return [*problems[:4], f"  {differing(case)}"] if problems else []


def both(case: options.Case, found: Mapping[int, dict]) -> tuple[dict, dict]:
    """The numbers of a case on one device and on all that it has."""
    many = found[int(case["devices"])]["numbers"]
    return (found[1]["numbers"] if 1 in found else many), many


def differences(case: options.Case, found: Mapping[int, dict]) -> dict[str, float]:
    """How much each number of a case differs from that of one device, as a part of it."""
    alone, many = both(case, found)
    return {
        key: abs(many[key] - alone[key]) / max(abs(alone[key]), 1e-3)
        for key in sorted(alone.keys() & many.keys())
    }


def is_exact(case: options.Case) -> bool:
    """Whether a case computes in float32 alone."""
    return case["dtype"] == "float32" and case["matmul"] == "plain"


def rests_on(due: Mapping[str, options.Case], found: Mapping[str, Mapping[int, dict]]) -> str:
    """What a run without problems saw, in one paragraph."""
    cases = {name: case for name, case in due.items() if "refused" not in name}
    beside = {name: case for name, case in cases.items() if 1 in found[name]}
    commands = sum(len(one["ended"]) for name in due for one in found[name].values())
    largest = {True: [0.0], False: [0.0]}
    for name, case in beside.items():
        largest[is_exact(case)] += differences(case, found[name]).values()
    count = sum(map(len, largest.values())) - len(largest)
    return (
        f"This page rests on a run with JAX {importlib.metadata.version('jax')}, in which "
        f"{commands:,} commands of launch.py ended as they should. {len(beside)} of the "
        f"{len(cases)} cases ran on one device, too: of {count:,} numbers the furthest was off by "
        f"{max(largest[True]):.1e} of it in float32, and by {max(largest[False]):.1e} in 16 or 8 "
        "bits."
    )


def differing(case: options.Case) -> str:
    """A case by what is not plain of it."""
    plain = {name: values[0] for name, values in options.OPTIONS.items()}
    return ", ".join(f"{k}={v}" for k, v in case.items() if v != plain[k])


def line_of(found: Mapping[int, dict]) -> str:
    """The line that refused."""
    (one,) = found.values()
    return re.sub(
        r"/\S+(-on-\d+|/base-[\w-]+)", "RUN", one["ended"][-1]["line"].removeprefix(_ONE_LINE)
    )


def not_refused(name: str, found: Mapping[int, dict]) -> str:
    """What is wrong with a case that should be refused; "" for nothing."""
    (one,) = found.values()
    end, is_last = one["ended"][-1], len(one["ended"]) > 1  # Behind a training that went well.
    if end["code"] == 2 and end["line"].startswith(_ONE_LINE) and (is_last or not one["written"]):
        return ""
    written = ", and there is a folder" if one["written"] else ""
    return f"{name}: {end['code']}: {end['line']}{written}"


_HEAD = """# Options together

Which options go together, and by which line the rest is refused: with exit code 2, before anything
is written. The lines are what `launch.py` said; the tests ask for them again.

`python -m benchmarks.check_options --folder=DIR` trains {num_cases} tiny cases that hold every pair
of the values below, {num_pairs:,} pairs, each through `launch.py` on four or eight simulated
devices and on one; resumes, evaluates, generates or exports; and compares losses, gradient norms
and evaluations with those of one device (2e-4 in float32, 5e-2 in 16 or 8 bits). With
`--output=docs/options.md` it writes this page. It takes an hour or more on two cores; the tests run
some of its cases.

| option | values, the plain one first |
|---|---|
"""
_REFUSED = """
## What does not go together

| this | with this | is refused by a line as |
|---|---|---|
"""


def page(num_cases: int, num_pairs: int, lines: Mapping[options.Pair, str], rests_on: str) -> str:
    """The page of what goes with what.

    Args:
      num_cases, num_pairs: that hold, and are.
      lines: what refused each pair that is refused.
      rests_on: see the function.
    """
    rows = [f"| {name} | {', '.join(values)} |" for name, values in options.OPTIONS.items()]
    refused = [refused_row(rule, lines) for rule in options.REFUSED]
    head = _HEAD.format(num_cases=num_cases, num_pairs=num_pairs)
    tables = "\n".join(rows) + "\n" + _REFUSED + "\n".join(refused) + "\n"
    return f"{head}{tables}\n{textwrap.fill(rests_on, 100)}\n"


def refused_row(rule: options.Rule, lines: Mapping[options.Pair, str]) -> str:
    """The row of one of `options.REFUSED`, with the first of the lines that refused its pairs."""
    one, ones, other, others = rule
    line = next(lines[pair] for pair in options.pairs_refused(rule) if pair in lines)
    line = line.replace("|", "\\|").split("; ")[0]
    return f"| {one}: {', '.join(ones)} | {other}: {', '.join(others)} | {line} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
