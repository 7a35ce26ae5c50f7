"""Labels, tags, answers or writes what a task model says of new text, as JSON Lines."""

import contextlib
import functools
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import IO, Any

import ml_collections

from experiments import report
from experiments.wiring.number_ranges import check_output, folder_of
from lm.data import unlabelled
from lm.errors import UserError
from lm.formats import files
from lm.inference import predicting
from lm.loading import task_model
from lm.parallel.mesh import make_mesh
from lm.settings import choose
from lm.system import atomic_files
from lm.tasks.prediction import Predicted


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Predicts for every record of `input`; `workdir` is not used.

    Standard output holds predictions alone.

    Raises:
      UserError: before anything is written, for what cannot work; later for the first bad record,
        unless these are skipped; at the end, for an input that could not be read to its end.
      BrokenPipeError: whoever reads standard output wants no more, as `head`.
    """
    del workdir
    _check(config)
    printed = sys.stdout
    say = functools.partial(print, file=sys.stderr, flush=True)
    with contextlib.redirect_stdout(sys.stderr):  # What libraries print is no prediction.
        predictor = _open(config)
        records = unlabelled.read(
            _path(config.input),
            config.input_format,
            config.data.max_document_bytes,
            predictor.task.from_text,
            say,
        )
        counts = dict.fromkeys(("predicted", "bad", "cut"), 0)
        unread = None
        with _output(config.output, printed) as file:
            for each in predictor(records):
                file.write(_line(each, config.data.on_error, counts))
                file.flush()  # Whoever reads a pipe waits for each line.
                if isinstance(each.prediction, files.RestUnread):
                    unread = each.prediction
    # On standard error, as all but the predictions.
    said = [f"predictions: {counts['predicted']:,}"]
    said += [f"of text that was cut to data.seq_len: {counts['cut']:,}"] * bool(counts["cut"])
    said += [f"records with an error: {counts['bad']:,}"] * bool(counts["bad"])
    say(", ".join(said) + (f"; written to {config.output}" if config.output else ""))
    if unread is not None:  # Whoever looks at the exit code must not think that this was all.
        raise UserError(_HINT.sub("", str(unread)))
    return 0


def _check(config: ml_collections.ConfigDict) -> None:
    """Whatever needs no model."""
    folder_of(config.checkpoint)
    if not config.input:
        raise UserError("input is not set; give a file, or - for standard input: --config.input=-")
    choose("input_format", config.input_format, unlabelled.FORMATS)
    choose("data.on_error", config.data.on_error, ("raise", "skip"))
    if config.data.batch_size < 1:
        raise UserError(f"data.batch_size={config.data.batch_size} must be at least 1")
    source = _path(config.input)
    if source != files.STDIN and source.is_dir():
        raise UserError(f"input={config.input} is a folder; name a file")
    if source != files.STDIN and not source.exists():
        raise UserError(f"input={config.input}: there is no such file")
    check_output(config.output, config.input, config.checkpoint)


def _path(name: str) -> pathlib.Path:
    return files.STDIN if name == "-" else pathlib.Path(name)


def _open(config: ml_collections.ConfigDict) -> predicting.Predictor:
    folder = folder_of(config.checkpoint)
    if not task_model.is_task_model(folder):
        raise UserError(
            f"checkpoint={folder} was trained for no task; fine-tune it, or have it write with "
            f"--config=configs/generate.py --config.checkpoint={folder}"
        )
    mesh = make_mesh(**config.parallel)
    run = task_model.load(
        folder,
        sequence_parts=mesh.shape["sequence"],
        task={name: value for name, value in config.task.items() if value is not None},
        truncate=config.data.truncate,
    )
    replies = predicting.Replies(**{name: config[name] for name in predicting.Replies._fields})
    predictor = predicting.make_predictor(
        run, mesh, batch_size=config.data.batch_size, replies=replies
    )
    print(f"{folder} at step {run.step}: {run.config['task']['kind']}", flush=True)
    return predictor


# What an error says of the setting that has it skipped.
_HINT = re.compile(r',? or set data\.on_error="?skip"?( to go without the rest[^;]*)?')


def _line(each: Predicted, on_error: str, counts: dict[str, int]) -> bytes:
    """A record's line: its name, its id if it has one, and the prediction or the error."""
    record, prediction = each.record, each.prediction
    fields: dict[str, Any] = {}
    if not isinstance(record, UserError):
        fields["name"] = record.name
        if isinstance(record.fields.get("id"), str | int):  # What else an id holds is no id.
            fields["id"] = record.fields["id"]
    if isinstance(prediction, UserError):
        if on_error == "raise":
            is_mended = "on_error" in str(prediction) or isinstance(prediction, files.RestUnread)
            hint = "" if is_mended else "; or set data.on_error=skip"
            raise UserError(f"{prediction}{hint}")
        counts["bad"] += 1
        error = _HINT.sub("", str(prediction))
        return report.json_line(fields | {"error": error}).encode()
    counts["predicted"] += 1
    counts["cut"] += each.is_cut
    fields |= {"prediction": prediction} | ({"cut": True} if each.is_cut else {})
    return report.json_line(fields).encode()


@contextlib.contextmanager
def _output(path: str, printed: IO[str]) -> Iterator[IO[bytes]]:
    """Opens what is written to: a file which becomes `path` at the end, or standard output."""
    if not path:
        printed.flush()
        yield printed.buffer
        return
    with atomic_files.replacing(pathlib.Path(path)) as part, part.open("wb") as file:
        yield file
