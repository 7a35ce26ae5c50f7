"""Writes docs/results/README.md, the ledger of claims from papers, from the folders of runs.

Command:   python -m docs.results.ledger runs

Each claim of `docs.results.claims` has a folder of its name in there, which must hold every run of
its sweep; what else lies there is left out. Of a claim that has none, what an earlier call made of
its runs stands on, as docs/results/ledger.json keeps it, unless its commands, their runs or its
target have changed since; then it was not run. Of runs only config.json, metrics.jsonl and
provenance.json are read.
"""

import hashlib
import json
import pathlib
import shlex
import sys

from docs.results.claims import CLAIMS, Claim, Measured
from experiments import sweep
from lm import workdir
from lm.errors import UserError
from lm.results import reading

PAGE = pathlib.Path(__file__).parent / "README.md"
ROWS = pathlib.Path(__file__).parent / "ledger.json"
_HEADER = """# Claims of papers, and what became of them here

Written by `python -m docs.results.ledger runs` from the folders of runs, never by hand. Intervals
are of the mean over seeds, at 95 %, by bootstrap; of the scaling law, of its fit over models. Hours
are those of training alone; of runs that were trained as one program each counts all of its time.

"""
_MEASURED = ("here", "gap", "status", "hours", "hardware", "commit")
_COLUMNS = ("claim", "paper", "target", *_MEASURED)
_NOT_RUN = dict.fromkeys(_MEASURED, "") | {"status": "not run"}

Rows = dict[str, dict[str, str]]  # By the claim's name: what it was asked, and what was measured.


def rows_of(root: pathlib.Path, known: Rows) -> Rows:
    """Of every claim that was run: of those with a folder anew, of the others as they are known.

    Raises:
      UserError: a run that is missing or not done, or cannot be read.
    """
    found = {}
    for claim in CLAIMS:
        if claim.measure is None:
            continue
        names = planned(claim.commands[-1])
        asked = {
            "commands": "\n".join(claim.commands),
            "runs": hashlib.sha256(" ".join(names).encode()).hexdigest()[:10],
            "target": claim.target,
        }
        before = known.get(claim.name, {})
        if (root / claim.name).is_dir():
            found[claim.name] = asked | _measured(claim, root / claim.name, names)
        elif asked.items() <= before.items():
            found[claim.name] = before
    return found


def known_rows(path: pathlib.Path) -> Rows:
    """The rows of an earlier call.

    Raises:
      UserError: the file is damaged.
    """
    rows = workdir.read_json(path)
    is_row = lambda row: isinstance(row, dict) and row.keys() >= {"commands", *_MEASURED}
    if not isinstance(rows, dict) or not all(map(is_row, rows.values())):
        raise UserError(f"{path} is no table of rows; restore it from git")
    return rows


def planned(command: str) -> list[str]:
    """The names of the runs of a command, sorted."""
    flags = dict(word.partition("=")[::2] for word in shlex.split(command) if word[:2] == "--")
    filename = flags["--config"]
    changes = {k[len("--config.") :]: v for k, v in flags.items() if k.startswith("--config.")}
    overrides = [{}]
    if "--sweep" in flags:
        overrides = sweep.read(flags["--sweep"] or filename.partition(":")[0])
    runs = sweep.plan(sweep.Base(filename, changes), overrides, pathlib.Path("runs"))
    return sorted(run.name for run in runs)


def text_of(rows: Rows) -> str:
    """The page."""
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    for claim in CLAIMS:
        row = rows.get(claim.name, _NOT_RUN)
        start = [f"[{claim.claim}](#{claim.name})", claim.paper, claim.target]
        lines.append(_line([*start, *(row[name] for name in _MEASURED)]))
    commands = [f"## {c.name}\n\n```bash\n{chr(10).join(c.commands)}\n```\n" for c in CLAIMS]
    return _HEADER + "\n".join(lines) + "\n\n" + "\n".join(commands)


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _measured(claim: Claim, folder: pathlib.Path, names: list[str]) -> dict[str, str]:
    found = reading.read(folder, claim.metrics)
    for warning in found.warnings:
        print(f"{claim.name}: {warning}", file=sys.stderr)
    done = {run.name: run for run in found.runs if run.state.kind == "done"}
    is_alone = (folder / workdir.CONFIG).exists()
    if is_alone:  # It goes by its config, since its folder was named by hand.
        own_name = sweep.name_of(workdir.flat(workdir.load_config(folder)))
        done = dict.fromkeys([own_name] if done else [], found.runs[0])
    if missing := [name for name in names if name not in done]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} runs are missing or not done, {missing[0]} "
            f"among them; go on with {claim.commands[-1]}"
        )
    runs = [done[name] for name in names]
    for run in runs:
        if never := [metric for metric in claim.metrics if metric not in run.series]:
            raise UserError(f"{folder / run.name} never logged {never[0]}; train it anew")
    measured: Measured = claim.measure(runs)
    hardware, commit = _provenance([folder] if is_alone else [folder / name for name in names])
    return {
        "here": measured.text,
        "gap": measured.gap,
        "status": "holds" if measured.holds else "fails",
        "hours": f"{sum(map(_seconds, runs)) / 3600:.2f}",
        "hardware": hardware,
        "commit": commit,
    }


def _seconds(run: reading.Run) -> float:
    """Of training: what a step took in each stretch between two lines, times its steps."""
    series = run.series["train/step_seconds"]
    steps = [0, *series.steps.tolist()]
    stretches = zip(steps[:-1], steps[1:], series.values.tolist(), strict=True)
    return sum((end - start) * seconds for start, end, seconds in stretches)


def _provenance(folders: list[pathlib.Path]) -> tuple[str, str]:
    """What runs ran on, and the commits that they ran."""
    starts = [start for folder in folders for start in workdir.starts(folder)]
    commits = {
        (start["git_commit"] or "unknown")[:7] + ("+" if start["git_dirty"] else "")
        for start in starts
    }
    devices = {start["devices"] for start in starts}
    return ", ".join(sorted(devices)), ", ".join(sorted(commits))


def main(argv: list[str]) -> int:
    """Writes the page; the exit code."""
    try:
        if len(argv) != 2:
            raise UserError("name the folder of runs: python -m docs.results.ledger runs")
        root = pathlib.Path(argv[1])
        if not root.is_dir():
            raise UserError(f"{root} is no folder; name the one of the claims' runs")
        if not any((root / claim.name).is_dir() for claim in CLAIMS):
            names = ", ".join(claim.name for claim in CLAIMS)
            raise UserError(f"{root} has the folder of no claim: {names}")
        rows = rows_of(root, known_rows(ROWS))
        workdir.write_whole(ROWS, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        workdir.write_whole(PAGE, text_of(rows))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
