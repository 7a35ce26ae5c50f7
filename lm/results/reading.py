"""Reads the folders of runs: their config.json and metrics.jsonl, and nothing else of them."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.run.status import METRICS, NUM_STEPS, State, is_record, record_of, seeds_of, state_from
from lm.run.workdir import CONFIG, flat, load_config

BEST_METRIC = "checkpoint.best_metric"  # A key of configs.
_SUBFOLDERS = {"checkpoints", "tensorboard", "tokenizer", "profile"}  # Of a run; none holds runs.
_RATE = "train/tokens_per_second"
# Lines as a run writes them: nothing in them can be missing but in a name or a number.
# "*+" keeps no way back, so that a broken line fails at once.
_PLAIN = re.compile(rb'(?:\{"step": \d+[^{}\n]*+\}\n)*+')
_MOST = 1e150  # The square of what is more is no float, and so no variance is.
MOST_NAMED = 3  # Of what a line is about.


@dataclasses.dataclass(frozen=True)
class Series:
    """A metric over the steps of a run, which rise; NaN where it was not finite, or 1e150."""

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What the folder of a run says."""

    name: str  # Its folder, as seen from the one that was asked for.
    config: dict[str, Any]  # Flat, such as {"optimizer.peak_lr": 0.003}.
    state: State
    series: dict[str, Series]  # The metrics that were asked for, of those that it has.
    tokens_per_second: float | None  # As logged last; None where it never was.
    silent_seconds: float | None  # Since something was logged, by the file's time; None if nothing.
    is_cut: bool  # The last line was not written whole, and is ignored.


@dataclasses.dataclass(frozen=True)
class Found:
    """The runs below a folder, and a line for each thing in it that could not be read."""

    runs: list[RunRecord]
    warnings: list[str]


def read(root: pathlib.Path, metrics: Collection[str] | None) -> Found:
    """Reads every run in a folder, however deep; the folder may be a run itself.

    Args:
      root: followed if it is a link; links below it are not.
      metrics: whose series to read, of all runs, besides those by which any of them chooses its
        best checkpoint; None for all. Few are read much faster.

    Raises:
      UserError: there is no run, or what was asked for is a run without a readable config.
      OSError: what was asked for is a run, and a file of it cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name one that holds runs")
    runs, warnings, without = [], [], []
    configs: dict[pathlib.Path, dict[str, Any]] = {}
    unreadable: list[OSError] = []
    name_of = lambda folder: (
        root.resolve().name if folder == root else str(folder.relative_to(root))
    )
    for folder in _folders(root, unreadable.append):
        with _left_out(warnings, is_optional=folder != root):
            if (folder / CONFIG).exists():
                config = load_config(folder)
                is_other = not (folder / METRICS).exists() and "train" not in config
                if not is_other and not seeds_of(folder):  # Each seed is a run of its own here.
                    configs[folder] = flat(config)
            elif folder == root:
                raise UserError(f"{root} has {METRICS} and no {CONFIG}; copy that too")
            else:
                without.append(name_of(folder))
    if metrics is not None:
        metrics = {*metrics, *filter(None, (x.get(BEST_METRIC) for x in configs.values()))}
    for folder, config in configs.items():
        with _left_out(warnings, is_optional=folder != root):
            run, broken = _read_run(folder, name_of(folder), config, metrics)
            runs.append(run)
            warnings += broken
    warnings += [f"left out: {_said(error)}" for error in unreadable]
    if without:
        warnings.append(f"left out for want of {CONFIG}: {some(without)} ({len(without)} in all)")
    if cut := [run.name for run in runs if run.is_cut]:
        warnings.append(
            f"last line of {METRICS} half-written and ignored: {some(cut)} ({len(cut)} in all)"
        )
    if not runs:
        nothing = f"no folder in it has {CONFIG} and {METRICS}"
        raise UserError(f"{root} holds no run: {warnings[0] if warnings else nothing}")
    return Found(runs, warnings)


def natural(text: str) -> list[tuple[int, float, str]]:
    """Makes a key that sorts lr-9 before lr-10, and lr-0.003 before lr-0.01."""
    parts = re.findall(r"[0-9]+(?:\.[0-9]+)?|[^0-9]+", text)
    return [(0, float(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]


def _folders(root: pathlib.Path, on_error: Callable[[OSError], None]) -> Iterable[pathlib.Path]:
    """Walks the folders with a file of a run, in the order of their names."""
    for path, subfolders, files in os.walk(root, onerror=on_error):
        is_run = METRICS in files or CONFIG in files
        subfolders[:] = sorted(  # In place: `os.walk` goes where this list says.
            (name for name in subfolders if not (is_run and name in _SUBFOLDERS)), key=natural
        )
        if is_run:
            yield pathlib.Path(path)


@contextlib.contextmanager
def _left_out(warnings: list[str], is_optional: bool) -> Iterator[None]:
    """Warns of a folder that cannot be read, if it need not be."""
    try:
        yield
    except (UserError, OSError) as error:
        if not is_optional:
            raise
        warnings.append(f"left out: {_said(error)}")


def _said(error: Exception) -> str:
    is_os = isinstance(error, OSError)
    return f"{error.filename} cannot be read: {error.strerror}" if is_os else str(error)


def _read_run(
    folder: pathlib.Path, name: str, config: dict[str, Any], metrics: Collection[str] | None
) -> tuple[RunRecord, list[str]]:
    """Reads a run, and gives a warning where lines are broken.

    Raises:
      UserError: what is named metrics.jsonl is no file.
    """
    path = folder / METRICS
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; remove it")
    text, silent_seconds = b"", None
    if path.exists():  # Clocks of two machines may differ, hence the 0.
        text, silent_seconds = path.read_bytes(), max(0.0, time.time() - path.stat().st_mtime)
    end = text.rfind(b"\n") + 1
    if record_of(text[end:]) is not None:  # Whole, but for its end.
        text += b"\n"
        end = len(text)
    is_cut, text = end < len(text), text[:end]
    # As `status.state_of`, which parses every line: those of its starts and the last one suffice.
    known = [*map(record_of, _beginnings(text, NUM_STEPS)), _last_record(text, "step")]
    series, broken = _parse(text, metrics)
    run = RunRecord(
        name=name,
        config=config,
        state=state_from(folder, list(filter(None, known)), len(broken) + is_cut),
        series=series,
        tokens_per_second=_last_record(text, _RATE).get(_RATE),
        silent_seconds=silent_seconds,
        is_cut=is_cut,
    )
    if len(broken) > 1:
        said = f"{path}: {len(broken)} lines are broken and ignored, the first is {broken[0]}"
        return run, [said]
    return run, [f"{path}:{number} is broken and ignored" for number in broken]


def _parse(text: bytes, metrics: Collection[str] | None) -> tuple[dict[str, Series], list[int]]:
    """Reads series by metric, and the numbers of broken lines."""
    records = [None]
    # A name in other characters may be spelled in JSON in several ways.
    are_plain = metrics is not None and all(map(str.isascii, metrics))
    if are_plain and _PLAIN.fullmatch(text):
        records = _records([part for name in metrics for part in _beginnings(text, name)])
    if None in records:  # Something is broken, or nothing is known of the lines.
        records = _records(text.split(b"\n")[:-1])
    values: dict[str, dict[int, float]] = {}
    for record in filter(None, records):
        for name in record if metrics is None else metrics:
            if name in record:
                # null stands for all that is not finite, and what is as good as that joins it.
                number = math.nan if record[name] is None else record[name]
                number = number if abs(number) < _MOST else math.nan
                # Of a step that was done twice, as after a kill, the later value stays.
                values.setdefault(name, {})[record["step"]] = number
    values = {x: v for x, v in values.items() if x != "step" and not x.startswith("run/")}
    series = {name: _series(by_step) for name, by_step in values.items()}
    return series, [number for number, record in enumerate(records, 1) if record is None]


def _beginnings(text: bytes, name: str) -> list[bytes]:
    """Cuts lines that hold a name: {"step": 1, "a": 2, "b": 3}, "a" -> {"step": 1, "a": 2}."""
    needle, found, end = f'"{name}"'.encode(), [], 0
    while (at := text.find(needle, end)) >= 0:  # In C over the bytes: no line is looked at in vain.
        start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
        comma = text.find(b",", at, end)  # No value has one: they are numbers and nulls.
        found.append(text[start:end] if comma < 0 else text[start:comma] + b"}")
    return found


def _last_record(text: bytes, name: str) -> dict[str, Any]:
    """Finds the last record that holds a name; {} without any."""
    needle, start = f'"{name}"'.encode(), len(text)
    while (at := text.rfind(needle, 0, start)) >= 0:
        start = text.rfind(b"\n", 0, at) + 1
        if record := record_of(text[start : text.find(b"\n", at)]):
            return record
    return {}


def _series(by_step: dict[int, float]) -> Series:
    steps = np.array(sorted(by_step), dtype=np.int64)
    return Series(steps, np.array([by_step[step] for step in steps.tolist()], dtype=np.float64))


def _records(lines: list[bytes]) -> list[dict[str, Any] | None]:
    """Parses lines; None stands for one that is no record."""
    try:  # In one go, which is faster. A line may hold "1, 2", hence the count below.
        records = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        records = []
    if len(records) == len(lines) and all(map(is_record, records)):
        return records
    return [record_of(line) for line in lines]


def some(names: Sequence[str]) -> str:
    """Lists the first few names, and says whether there are more."""
    more = ", ..." if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
