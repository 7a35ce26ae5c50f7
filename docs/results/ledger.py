"""Writes docs/results/README.md, the ledger of claims from papers, from the folders of runs.

Command:   python -m docs.results.ledger runs

Each claim of `docs.results.claims` has a folder of its name in there. Of one that has none, what an
earlier call made of its runs stands on, as docs/results/ledger.json keeps it, unless its commands
or its target have changed since; then it was not run. Of runs only config.json, metrics.jsonl and
provenance.json are read.
"""

import json
import pathlib
import sys

from docs.results.claims import CLAIMS, Claim, Measured
from lm import workdir
from lm.errors import UserError
from lm.results import reading

PAGE = pathlib.Path(__file__).parent / "README.md"
ROWS = pathlib.Path(__file__).parent / "ledger.json"
_HEADER = """# Claims of papers, and what became of them here

Written by `python -m docs.results.ledger runs` from the folders of runs, never by hand. Intervals
are of the mean over seeds, at 95 %, by bootstrap; of the scaling law, of its fit over models. Hours
are those of training alone.

"""
_MEASURED = ("here", "gap", "status", "hours", "hardware", "commit")
_COLUMNS = ("claim", "paper", "target", *_MEASURED)
_NOT_RUN = dict.fromkeys(_MEASURED, "") | {"status": "not run"}

Rows = dict[str, dict[str, str]]  # By the claim's name: what it was asked, and what was measured.


def rows_of(root: pathlib.Path, known: Rows) -> Rows:
    """Of every claim that was run: of those with a folder anew, of the others as they are known.

    Raises:
      UserError: a run that is not done, or cannot be read.
    """
    found = {}
    for claim in CLAIMS:
        asked = {"commands": "\n".join(claim.commands), "target": claim.target}
        before = known.get(claim.name, {})
        if claim.measure is not None and (root / claim.name).is_dir():
            found[claim.name] = asked | _measured(claim, root / claim.name)
        elif asked.items() <= before.items():
            found[claim.name] = before
    return found


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


def _measured(claim: Claim, folder: pathlib.Path) -> dict[str, str]:
    found = reading.read(folder, claim.metrics)
    for warning in found.warnings:
        print(f"{claim.name}: {warning}", file=sys.stderr)
    unfinished = [run.name for run in found.runs if run.state.kind != "done"]
    if unfinished:
        raise UserError(f"{folder}/{unfinished[0]} is not done; let it end, or take it away")
    measured: Measured = claim.measure(found.runs)
    hardware, commit = _provenance(folder, found.runs)
    return {
        "here": measured.text,
        "gap": measured.gap,
        "status": "holds" if measured.holds else "fails",
        "hours": f"{sum(map(_seconds, found.runs)) / 3600:.2f}",
        "hardware": hardware,
        "commit": commit,
    }


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
        root = pathlib.Path(argv[1])
        if not root.is_dir():
            raise UserError(f"{root} is no folder; name the one of the claims' runs")
        rows = rows_of(root, json.loads(ROWS.read_text()))
        workdir.write_whole(ROWS, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        workdir.write_whole(PAGE, text_of(rows))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
