"""Where metrics go: metrics.jsonl, TensorBoard, the terminal; Weights & Biases if asked."""

import contextlib
import html
import importlib
import importlib.util
import json
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import rich.console
import rich.progress
from absl import logging

from lm.errors import UserError
from lm.parallel import hosts
from lm.run import status
from lm.run.status import METRICS, NUM_STEPS
from lm.system import atomic_files, faults, safe_text
from lm.train import event_files

Scalars = Mapping[str, float]


class Writer(Protocol):
    """One place that metrics go to; it may ignore texts, and have nothing to close."""

    def scalars(self, step: int, values: Scalars) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self) -> None: ...


class Writers(Writer):
    """Several places that look like one."""

    def __init__(self, writers: list[Writer]):
        self._writers = writers

    def scalars(self, step: int, values: Scalars) -> None:
        """Writes values by name (train/loss, eval/loss, ...); JSON has null for NaN."""
        for writer in self._writers:
            writer.scalars(step, values)

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a sample, or anything else that is not a number."""
        for writer in self._writers:
            writer.text(step, name, text)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # Each, also where another one fails.
            for writer in self._writers:
                stack.callback(writer.close)


@contextlib.contextmanager
def opened(
    workdir: pathlib.Path,
    *,
    step: int,
    num_steps: int,
    config: Mapping[str, Any],
    wandb_project: str,
) -> Iterator[Writers]:
    """Opens all writers of a run that goes on from `step`, and takes back what was logged after.

    Only the first process writes.

    Args:
      workdir: exists.
      step: the step of the checkpoint that was restored, 0 for a new run.
      num_steps: where the run will end, for the time left.
      config: shown by Weights & Biases.
      wandb_project: "" for none.
    """
    if not hosts.is_first():
        yield Writers([])
        return
    console = rich.console.Console()
    writers = [
        JsonLines(workdir / METRICS, step, num_steps),
        TensorBoard(workdir / "tensorboard", step),
        Terminal(console, step, num_steps) if console.is_terminal else Plain(num_steps),
    ]
    if wandb_project:
        writers.append(WeightsAndBiases(workdir, wandb_project, config))
    with contextlib.closing(Writers(writers)) as together:
        yield together


def mark(workdir: pathlib.Path, how: str, step: int | None = None) -> None:
    """Has the first process say in metrics.jsonl what became of the run; see `status.mark`."""
    if hosts.is_first():
        status.mark(workdir, how, step)


def check_wandb(project: str) -> None:
    """Raises UserError where Weights & Biases is asked for and not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(f"log.wandb_project={project!r} needs Weights & Biases: pip install wandb")


class JsonLines(Writer):
    """Writes metrics.jsonl, numbers alone: a JSON object a line, none newer than the restored step.

    Its first line, and the first after each restart, say where the run will end.
    """

    def __init__(self, path: pathlib.Path, step: int, num_steps: int):
        text = path.read_bytes() if path.exists() else b""
        lines = text.splitlines()
        found = [status.record_of(line) for line in lines]
        # What was logged after the restored step will be logged again, to the bit.
        kept = [i for i, record in enumerate(found) if record and record["step"] <= step]
        whole = b"".join(lines[i] + b"\n" for i in kept)
        # The last line is half-written where the process was killed, which need not be said.
        damaged = [i for i, record in enumerate(found[:-1], start=1) if record is None]
        if damaged:
            copy = path.with_name(f"{path.name}.damaged")
            atomic_files.write(copy, text)
            logging.warning(
                "%s: %d lines that are no records are left out, the first of which is line %d; "
                "%s is the file as it was",
                path,
                len(damaged),
                damaged[0],
                copy,
            )
        if whole != text:  # Also where but the end of the last line is missing.
            atomic_files.write(path, whole)
        self._path, self._file = path, path.open("a")
        records = [found[i] for i in kept]
        ends = [record[NUM_STEPS] for record in records if NUM_STEPS in record]
        # A run that is done gets no such line, unless it is to be longer than it was.
        if not status.is_done(records) or ends[-1:] != [num_steps]:
            self.scalars(step, {NUM_STEPS: num_steps})

    def scalars(self, step: int, values: Scalars) -> None:
        # JSON knows no NaN. Floats keep all their bits, since `repr` is exact.
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        record = {"step": step} | finite
        with faults.naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()  # A whole line at once, for whoever follows the file.

    def close(self) -> None:
        with faults.naming(self._path):
            self._file.close()


class TensorBoard(Writer):
    """Writes an event file, of which TensorBoard drops what a restored run will log again."""

    def __init__(self, folder: pathlib.Path, step: int):
        self._folder = folder
        with faults.naming(folder):
            folder.mkdir(exist_ok=True)
            self._file = event_files.EventFile(folder)
            self._file.start(step + 1)

    def scalars(self, step: int, values: Scalars) -> None:
        with faults.naming(self._folder):
            for name, value in values.items():
                if math.isfinite(value):
                    self._file.scalar(step, name, value)
            self._file.flush()

    def text(self, step: int, name: str, text: str) -> None:
        with faults.naming(self._folder):
            self._file.text(step, name, "```\n" + text + "\n```")

    def close(self) -> None:
        with faults.naming(self._folder):
            self._file.close()


class Plain(Writer):
    """Prints a line for each record, for log files and pipes."""

    def __init__(self, num_steps: int):
        self._clock = _Clock(num_steps)

    def scalars(self, step: int, values: Scalars) -> None:
        print(f"step {step:>6}  {_summary(values)}{self._clock.time_left(step)}", flush=True)

    def text(self, step: int, name: str, text: str) -> None:
        print(f"step {step:>6}  {name}:\n{safe_text.escaped(text)}", flush=True)


class Terminal(Writer):
    """Draws a progress line at the bottom, above which evaluations and samples scroll."""

    def __init__(self, console: rich.console.Console, step: int, num_steps: int):
        self._clock = _Clock(num_steps)
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("[bold]step {task.completed:.0f}/{task.total:.0f}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.description}"),
            console=console,
        )
        self._task = self._progress.add_task("", total=num_steps, completed=step)
        self._progress.start()

    def scalars(self, step: int, values: Scalars) -> None:
        if "train/loss" in values:
            line = _summary(values) + self._clock.time_left(step)
            self._progress.update(self._task, completed=step, description=line)
        else:
            self._progress.console.print(f"step {step}  {_summary(values)}", highlight=False)

    def text(self, step: int, name: str, text: str) -> None:
        self._progress.console.print(f"[bold]step {step}  {name}")
        # A sample may hold brackets, which would be read as markup.
        self._progress.console.print(safe_text.escaped(text), markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class WeightsAndBiases(Writer):
    """Logs to one run on the server, however often it is restarted."""

    def __init__(self, workdir: pathlib.Path, project: str, config: Mapping[str, Any]):
        self._wandb = importlib.import_module("wandb")
        id_file = workdir / "wandb_run_id"
        if not id_file.exists():
            atomic_files.write(id_file, self._wandb.util.generate_id())
        self._run = self._wandb.init(
            project=project,
            id=id_file.read_text(),
            resume="allow",
            reinit="create_new",  # Beside others: one process may train several runs.
            name=workdir.name,
            dir=str(workdir),
            config=dict(config),
        )

    def scalars(self, step: int, values: Scalars) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        page = self._wandb.Html(f"<pre>{html.escape(text, quote=False)}</pre>")
        self._run.log({name: page}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Clock:
    """Estimates how long the rest will take, at the pace so far."""

    def __init__(self, num_steps: int):
        self._start, self._num_steps = None, num_steps

    def time_left(self, step: int) -> str:
        now = time.perf_counter()
        if self._start is None:  # The first record: compilation lies behind it, and no pace yet.
            self._start = now, step
        start_seconds, start_step = self._start
        if step <= start_step:
            return ""
        pace_seconds = (now - start_seconds) / (step - start_step)
        seconds = round(pace_seconds * (self._num_steps - step))
        return f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


_MOST_SHOWN = 5  # Of the metrics of an evaluation; files hold them all.
_SHOWN = {  # Of the training metrics, what fits on a line.
    "train/loss": "loss {:.4f}",
    "train/learning_rate": "lr {:.2e}",
    "train/tokens_per_second": "{:,.0f} tokens/s",
    "train/mfu": "MFU {:.1%}",
}


def _summary(values: Scalars) -> str:
    if "train/loss" not in values:
        first = list(values.items())[:_MOST_SHOWN]
        more = ["..."] if len(values) > len(first) else []
        return "  ".join([*(f"{name} {value:.4f}" for name, value in first), *more])
    shown = [(_SHOWN[name], values[name]) for name in _SHOWN if name in values]
    known = [(pattern, value) for pattern, value in shown if not math.isnan(value)]
    return "  ".join(pattern.format(value) for pattern, value in known)
