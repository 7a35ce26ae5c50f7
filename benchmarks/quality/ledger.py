"""Writes docs/results/README.md, the ledger of claims from papers, from the folders of runs.

Command:   python -m benchmarks.quality.ledger runs

Each claim of `benchmarks.quality.claims` has a folder of its name in there, which must hold every
run of its sweep, or be its run where there is no sweep; what else lies there is left out. Of a
claim that has none, what an earlier call made of its runs stands on, as docs/results/ledger.json
keeps it, unless its commands, their runs or its target have changed since; then it was not run. Of
runs only config.json, metrics.jsonl and provenance.json are read.
"""

import hashlib
import json
import pathlib
import shlex
import sys

from benchmarks.quality.claim_measures import Measured
from benchmarks.quality.claims import CLAIMS, Claim
from experiments.sweeps import plan
from lm.errors import UserError
from lm.results import reading
from lm.run import workdir
from lm.run.status import state_of
from lm.system import atomic_files

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
PAGE, ROWS = _RESULTS / "README.md", _RESULTS / "ledger.json"
_HEADER = """# Claims of papers, and what became of them here

Written by `python -m benchmarks.quality.ledger runs` from the folders of runs, never by hand.
Intervals are of the mean over seeds, at 95 %, by bootstrap; of the scaling law, of its fit over
models. Hours are those of training alone; of runs that were trained as one program each counts all
of its time.

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
        has_folder = (root / claim.name).is_dir()
        if claim.measure is None:
            if has_folder:
                raise UserError(
                    f"{root / claim.name}: nothing measures this claim yet; move it away"
                )
            continue
        runs = planned(claim.commands[-1])
        asked = {
            "commands": "\n".join(claim.commands),
            "runs": hashlib.sha256(" ".join(run.name for run in runs).encode()).hexdigest()[:10],
            "target": claim.target,
        }
        before = known.get(claim.name, {})
        if has_folder:
            found[claim.name] = asked | _measured(claim, root, runs)
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


def planned(command: str) -> list[plan.PlannedRun]:
    """The runs of a command, sorted by their names."""
    flags = dict(word.partition("=")[::2] for word in shlex.split(command) if word[:2] == "--")
    filename = flags["--config"]
    changes = {k[len("--config.") :]: v for k, v in flags.items() if k.startswith("--config.")}
    base, folder = plan.Base(filename, changes), pathlib.Path(flags["--workdir"])
    if "--sweep" not in flags:
        return [plan.plan_alone(base, folder)]
    overrides = plan.read(flags["--sweep"] or filename.partition(":")[0])
    return sorted(plan.plan(base, overrides, folder), key=lambda run: run.name)


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


def _measured(
    claim: Claim, root: pathlib.Path, planned_runs: list[plan.PlannedRun]
) -> dict[str, str]:
    folders = [root / claim.name / run.workdir.name for run in planned_runs]
    if "--sweep" not in claim.commands[-1]:
        folders = [root / claim.name]
        workdir.check(folders[0], planned_runs[0].config.to_dict())
    is_done = lambda folder: state_of(folder).kind == "done"
    if missing := [folder for folder in folders if not is_done(folder)]:
        raise UserError(
            f"{len(missing)} of {len(folders)} runs are missing or not done, {missing[0]} among "
            f"them; go on with {claim.commands[-1]}"
        )
    runs = [reading.read(folder, claim.metrics).runs[0] for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if never := [metric for metric in claim.metrics if metric not in run.series]:
            raise UserError(f"{folder} never logged {never[0]}; train it anew")
    measured: Measured = claim.measure(runs)
    hardware, commit = _provenance(folders)
    return {
        "here": measured.text,
        "gap": measured.gap,
        "status": "holds" if measured.holds else "fails",
        "hours": f"{sum(map(_seconds, runs)) / 3600:.2f}",
        "hardware": hardware,
        "commit": commit,
    }


def _seconds(run: reading.RunRecord) -> float:
    """Of training: what a step took in each stretch between two lines, times its steps."""
    series = run.series["train/step_seconds"]
    steps = [0, *series.steps.tolist()]
    stretches = zip(steps[:-1], steps[1:], series.values.tolist(), strict=True)
    return sum((end - start) * seconds for start, end, seconds in stretches)


def _provenance(folders: list[pathlib.Path]) -> tuple[str, str]:
    """What runs ran on, and the commits that they ran."""
    starts = []
    for folder in folders:
        of_run = workdir.starts(folder)
        if not of_run:
            raise UserError(f"{folder} has no provenance.json; copy that too")
        starts += of_run
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
            raise UserError("name the folder of runs: python -m benchmarks.quality.ledger runs")
        root = pathlib.Path(argv[1])
        if not root.is_dir():
            raise UserError(f"{root} is no folder; name the one of the claims' runs")
        if not any((root / claim.name).is_dir() for claim in CLAIMS):
            names = ", ".join(claim.name for claim in CLAIMS)
            raise UserError(f"{root} has the folder of no claim: {names}")
        rows = rows_of(root, known_rows(ROWS))
        atomic_files.write(ROWS, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        atomic_files.write(PAGE, text_of(rows))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
