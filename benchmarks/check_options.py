"""Runs few tiny cases that hold every pair of options, and compares them with one device.

    python -m benchmarks.check_options --folder=/tmp/options --output=docs/options.md

Each case trains, through `launch.main`, on four or eight simulated devices and on one; a pair that
is refused must be so in one line, with exit code 2 and nothing written. The exit code is 1 if any
did otherwise. What is there already in the folder is not run again.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from benchmarks import options, quick_compilation

_ONE_LINE = "error: "


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="the page to write")
    parser.add_argument("--devices", type=int, help="run what is due on so many; compare nothing")
    parser.add_argument("--names", default="", help="of what is run, with commas; all if not given")
    given = parser.parse_args(argv)
    given.folder.mkdir(parents=True, exist_ok=True)
    wanted = options.all_pairs()
    cases, refused = options.covering(wanted), options.refused_cases()
    due = {f"case-{i}": case for i, case in enumerate(cases)}
    due |= {f"refused-{i}": case for i, case in enumerate(refused.values())}
    due = {name: due[name] for name in given.names.split(",") if name} or due
    if given.devices:
        work(given.folder, given.devices, due)
        return 0
    for num_devices in (1, *map(int, options.OPTIONS["devices"])):
        start(given.folder, num_devices, list(due))
    found = results(given.folder)
    problems = [problem for name, case in due.items() for problem in wrong(name, case, found[name])]
    print("\n".join(problems))
    print(f"{len(due)} cases, {len(problems)} problems")
    if given.output and not problems:
        lines = {pair: line_of(found[f"refused-{i}"]) for i, pair in enumerate(refused)}
        given.output.write_text(page(len(cases), len(wanted), lines))
    return 1 if problems else 0


def start(folder: pathlib.Path, num_devices: int, names: Sequence[str]) -> None:
    """Runs what is due on so many devices, in a process of its own, since JAX counts them once."""
    flag = f"--xla_force_host_platform_device_count={num_devices}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "LM_CACHE": os.environ.get("LM_CACHE", f"{folder}/cache"),
        "XLA_FLAGS": f"{quick_compilation.FLAGS} {os.environ.get('XLA_FLAGS', '')} {flag}",
    }
    command = (sys.executable, "-m", "benchmarks.check_options", f"--devices={num_devices}")
    more = (f"--folder={folder}", f"--names={','.join(names)}")
    subprocess.run([*command, *more], env=env, check=True)


def results(folder: pathlib.Path) -> dict[str, dict[int, dict]]:
    """What came of each case by its name and the number of devices."""
    found: dict[str, dict] = collections.defaultdict(dict)
    for path in sorted(folder.glob("results-*.jsonl")):
        for line in path.read_text().splitlines():
            one = json.loads(line)
            found[one["name"]][one["devices"]] = one
    return found


def work(folder: pathlib.Path, num_devices: int, due: Mapping[str, options.Case]) -> None:
    """Runs the cases that are due on so many devices, but those whose results are there."""
    import jax  # Here, since the other process needs none.

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # Fewer cores than devices.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    from benchmarks import option_runs

    if not (folder / "train.txt").exists():
        option_runs.write_files(folder)
    done = results(folder)
    for name, case in due.items():
        is_due = num_devices == int(case["devices"]) or (num_devices == 1 and "case" in name)
        if is_due and num_devices not in done[name]:
            one = option_runs.train(case, folder, name, num_devices=num_devices)
            one = {"name": name, "devices": num_devices} | one
            with (folder / f"results-{num_devices}.jsonl").open("a") as file:
                file.write(json.dumps(one) + "\n")
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
    many = found[int(case["devices"])]["numbers"]
    alone = found[1]["numbers"] if 1 in found else many
    if not problems and (alone.keys() != many.keys() or not alone):
        problems = [f"{name}: logs {sorted(alone.keys() ^ many.keys())[:4]}"]
    is_exact = case["dtype"] == "float32" and case["matmul"] == "plain"
    tolerance = 2e-4 if is_exact else 5e-2
    for key in alone.keys() & many.keys():
        if not abs(many[key] - alone[key]) <= tolerance * max(abs(alone[key]), 1e-3):
            problems.append(f"{name}: {key} is {many[key]:.7g}, and on one device {alone[key]:.7g}")
    return [*problems[:4], f"  {differing(case)}"] if problems else []


def differing(case: options.Case) -> str:
    """A case by what is not plain of it."""
    plain = {name: values[0] for name, values in options.OPTIONS.items()}
    return ", ".join(f"{k}={v}" for k, v in case.items() if v != plain[k])


def line_of(found: Mapping[int, dict]) -> str:
    """The line that refused."""
    (one,) = found.values()
    return re.sub(r"/\S+-on-\d+", "RUN", one["ended"][-1]["line"].removeprefix(_ONE_LINE))


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
its first case.

| option | values, the plain one first |
|---|---|
"""
_REFUSED = """
## What does not go together

| this | with this | is refused by a line as |
|---|---|---|
"""


def page(num_cases: int, num_pairs: int, lines: Mapping[options.Pair, str]) -> str:
    """The page of what goes with what; `lines` are what refused each pair that is."""
    rows = [f"| {name} | {', '.join(values)} |" for name, values in options.OPTIONS.items()]
    refused = [refused_row(rule, lines) for rule in options.REFUSED]
    head = _HEAD.format(num_cases=num_cases, num_pairs=num_pairs)
    return head + "\n".join(rows) + "\n" + _REFUSED + "\n".join(refused) + "\n"


def refused_row(rule: options.Rule, lines: Mapping[options.Pair, str]) -> str:
    """The row of one of `options.REFUSED`, with the first of the lines that refused its pairs."""
    one, ones, other, others = rule
    line = next(lines[pair] for pair in options.pairs_refused(rule) if pair in lines)
    line = line.replace("|", "\\|").split("; ")[0]
    return f"| {one}: {', '.join(ones)} | {other}: {', '.join(others)} | {line} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
