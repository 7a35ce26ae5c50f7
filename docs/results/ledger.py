"""Writes docs/results/README.md, the ledger of claims from papers, from the folders of runs.

Command:   python -m docs.results.ledger runs

Each claim of `docs.results.claims` has a folder of its name in there; without one it was not run.
Only config.json, metrics.jsonl and provenance.json are read.
"""

import json
import pathlib
import sys

from docs.results.claims import CLAIMS, Claim, Measured
from lm.errors import UserError
from lm.results import reading

_PAGE = pathlib.Path(__file__).parent / "README.md"
_HEADER = """# Claims of papers, and what became of them here

Written by `python -m docs.results.ledger runs` from the folders of runs, never by hand. Intervals
are of the mean over seeds, at 95 %, by bootstrap; of the scaling law, of its fit over models. Hours
are those of training alone.

"""
_COLUMNS = ("claim", "paper", "target", "here", "gap", "status", "hours", "hardware", "commit")


def text_of(root: pathlib.Path) -> str:
    """The ledger, from the runs of every claim that has some.

    Raises:
      UserError: a run that is not done, or cannot be read.
    """
    rows = [_row(claim, root / claim.name) for claim in CLAIMS]
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, rows)]
    commands = [f"## {c.name}\n\n```bash\n{chr(10).join(c.commands)}\n```\n" for c in CLAIMS]
    return _HEADER + "\n".join(lines) + "\n\n" + "\n".join(commands)


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _row(claim: Claim, folder: pathlib.Path) -> list[str]:
    start = [f"[{claim.claim}](#{claim.name})", claim.paper, claim.target]
    if claim.measure is None or not folder.is_dir():
        return [*start, "", "", "not run", "", "", ""]
    found = reading.read(folder, claim.metrics)
    for warning in found.warnings:
        print(f"{claim.name}: {warning}", file=sys.stderr)
    unfinished = [run.name for run in found.runs if run.state.kind != "done"]
    if unfinished:
        raise UserError(f"{folder}/{unfinished[0]} is not done; let it end, or take it away")
    measured: Measured = claim.measure(found.runs)
    status = "holds" if measured.holds else "fails"
    hours = sum(map(_seconds, found.runs)) / 3600
    hardware, commit = _provenance(folder, found.runs)
    return [*start, measured.text, measured.gap, status, f"{hours:.1f}", hardware, commit]


def _seconds(run: reading.Run) -> float:
    """Of training: what a step took in each stretch between two lines, times its steps."""
    series = run.series["train/step_seconds"]
    steps = [0, *series.steps.tolist()]
    stretches = zip(steps[:-1], steps[1:], series.values.tolist(), strict=True)
    return sum((end - start) * seconds for start, end, seconds in stretches)


def _provenance(folder: pathlib.Path, runs: list[reading.Run]) -> tuple[str, str]:
    """What the runs ran on, and the commits that they ran."""
    starts = [
        start
        for run in runs
        for start in json.loads((folder / run.name / "provenance.json").read_text())
    ]
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
        _PAGE.write_text(text_of(pathlib.Path(argv[1])), encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
