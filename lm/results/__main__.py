"""What became of runs: `python -m lm.results RUNS_FOLDER`; see docs/results_tool.md."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lm.errors import UserError
from lm.results import groups, tables, views
from lm.results.reading import BEST_METRIC, Found, RunRecord, read
from lm.system import faults, safe_text

_COMMANDS = {
    "overview": "status and table; what RUNS_FOLDER alone stands for",
    "status": "each run: done, running, stopped, failed, dead, never started; how far, how fast",
    "table": "each config by what differs: its metrics, mean and interval over seeds",
    "best": "the best config by a metric, and whether the second is told apart from it",
    "compare": "two runs: what differs in their configs, and their last values",
    "plot": "curves as PNG, a file a metric",
    "report": "all of it as one HTML file with interactive plots",
}
_LOSSES = ("eval/loss", "train/loss")  # The second in curves alone, for it is in most lines.


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for a mistake of the user, who is told it in one line."""
    try:
        _run(_parse(argv))
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # Whoever read this has seen enough; nor may the flush at exit fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(faults.one_line(error) or str(error))
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.command == "compare":
        return _compare(args)
    with_train = args.command in ("plot", "report")
    found = read(args.folder, args.metric or _LOSSES[: 1 + with_train])
    # Only a mistake is worth a second reading, of all metrics, to name those that are there.
    for metric in args.metric:
        if not any(metric in run.series for run in found.runs):
            groups.check_metric(metric, read(args.folder, None).runs)
    for key in args.over:
        groups.check_key(key, found.runs)
    metrics = args.metric or _default_metrics(args.command, found.runs)
    over = tuple(args.over or ["seed"])
    choice = views.Choice(tuple(metrics), args.at, args.mode, over, args.unfinished)
    if args.command == "best":
        _best(args, found, choice)
    elif args.command == "plot":
        from lm.results import plots  # What draws takes longer to import than all else.

        folder = args.output or args.folder / "plots"
        files, missing = plots.save(found.runs, choice, folder)
        if missing:
            found.warnings.append(plots.font_hint(missing))
        _print_files(args, files, found)
    elif args.command == "report":
        from lm.results import report

        path = args.output or args.folder / "report.html"
        if path.is_file() and path.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--output={path} is a file and no page; name another")
        report.save(args.folder, found, choice, path)
        _print_files(args, [path], found)
    else:
        _tables(args, found, choice)


def _default_metrics(command: str, runs: Sequence[RunRecord]) -> list[str]:
    """Names the loss, and what runs choose their best checkpoint by, as far as it was logged."""
    if command == "best":
        return ["eval/loss"]
    chosen_by = {run.config[BEST_METRIC] for run in runs if run.config.get(BEST_METRIC)}
    names = dict.fromkeys([_LOSSES[0], *sorted(chosen_by), _LOSSES[1]])
    return [name for name in names if any(name in run.series for run in runs)]


def _tables(args: argparse.Namespace, found: Found, choice: views.Choice) -> None:
    parts: dict[str, Any] = {"folder": str(args.folder), "counts": views.counts(found.runs)}
    shown = []
    if args.command in ("overview", "status"):
        table, parts["runs"] = views.status(found.runs, choice)
        shown.append(table)
    if args.command in ("overview", "table"):
        table, parts["configs"] = views.results(found.runs, choice)
        shown.append(table)
    _print(args, parts, found.warnings, shown=shown)


def _best(args: argparse.Namespace, found: Found, choice: views.Choice) -> None:
    if len(choice.metrics) != 1:
        raise UserError(f"best goes by one metric, not {len(choice.metrics)}: say --metric=NAME")
    text, data = views.best(found.runs, choice)
    _print(args, data, found.warnings, text=text)


def _compare(args: argparse.Namespace) -> None:
    found = [read(folder, None) for folder in (args.a, args.b)]
    for folder, one in zip((args.a, args.b), found, strict=True):
        if len(one.runs) > 1:
            raise UserError(f"{folder} holds {len(one.runs)} runs; name the folder of one")
    shown, data = views.compare(*(one.runs[0] for one in found))
    _print(args, data, [line for one in found for line in one.warnings], shown=shown)


def _print_files(args: argparse.Namespace, files: Sequence[pathlib.Path], found: Found) -> None:
    text = "\n".join(f"written to {path}" for path in files)
    _print(args, {"files": [str(path) for path in files]}, found.warnings, text=text)


def _print(
    args: argparse.Namespace,
    data: dict[str, Any],
    warnings: Sequence[str],
    *,
    text: str = "",
    shown: Sequence[tables.Table] = (),
) -> None:
    if args.json:
        print(json.dumps(data | {"warnings": warnings}), flush=True)
        return
    if text:
        print(safe_text.shown(text))
    for table in shown:
        tables.show(table)
    sys.stdout.flush()  # Before stderr, which is not buffered, so that one file has both in order.
    for line in warnings:
        print(safe_text.one_line(f"warning: {line}"), file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m lm.results --help")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    if not argv or argv[0] not in (*_COMMANDS, "-h", "--help"):
        argv = ["overview", *argv]
    parser = _Parser(prog="python -m lm.results", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.add_argument("--json", action="store_true", help="one JSON object, for programs")
        if name == "compare":
            one.add_argument("a", type=pathlib.Path, help="the folder of a run")
            one.add_argument("b", type=pathlib.Path, help="that of another")
            continue
        one.add_argument("folder", type=pathlib.Path, help="holds runs, however deep; or is one")
        one.add_argument(
            "--metric", type=_names, default=(), help="NAME,...: as in metrics.jsonl; eval/loss"
        )
        one.add_argument("--at", choices=groups.AT, default="last", help="which value of a run")
        one.add_argument("--mode", choices=("min", "max"), help="what is better; known for most")
        one.add_argument(
            "--over", type=_names, default=(), help="KEY,...: what to average over; seed"
        )
        one.add_argument("--unfinished", action="store_true", help="average these runs too")
        if name in ("plot", "report"):
            one.add_argument("--output", type=pathlib.Path, help="where to write")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _fail(message: str) -> int:
    sys.stdout.flush()
    print(safe_text.one_line(f"error: {message}"), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
