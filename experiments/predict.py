"""Labels, tags, answers or writes what a task model says of new text, as JSON Lines."""

import contextlib
import functools
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import jax
import ml_collections
from flax import linen as nn

from experiments import report
from experiments.wiring.number_ranges import check_output, folder_of
from lm.data import unlabelled
from lm.data.examples import Features, evaluation_batches, outputs_by_example
from lm.data.records import Record
from lm.errors import UserError
from lm.formats import files
from lm.generation import decoding, ending, sampling
from lm.inference import prompting
from lm.loading import task_model as task_model_lib
from lm.models.kv_cache import unstack_for_decoding
from lm.parallel.batches import place_batch
from lm.parallel.mesh import divisible, make_mesh, num_batch_shards, replicated, with_mesh
from lm.parallel.param_rules import constrain_batch_sharding, place_params
from lm.settings import choose
from lm.system import atomic_files
from lm.tasks import language
from lm.tasks.prediction import Predicted, predictions
from lm.tasks.task import Outputs, Task
from lm.tokenizers.tokenizers import Tokenizer
from lm.train.evaluation import fetched


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
        task_model = _open(config)
        records = unlabelled.read(
            _path(config.input),
            config.input_format,
            config.data.max_document_bytes,
            task_model.task.from_text,
            say,
        )
        found = predictions(
            records,
            task_model.read,
            task_model.task.notes,
            task_model.outputs_of,
            task_model.predict,
            batch_size=task_model.batch_size,
        )
        counts = dict.fromkeys(("predicted", "bad", "cut"), 0)
        unread = None
        with _output(config.output, printed) as file:
            for each in found:
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


class TaskModel(NamedTuple):
    """A model that is ready for new text; see `prediction.predictions`."""

    task: Task
    batch_size: int
    read: Callable[[Record], list[Features]]
    outputs_of: Callable[[list[Features]], list[Outputs]]
    predict: Callable[[list[Record], list[list[Outputs]]], list[Any]]


def _open(config: ml_collections.ConfigDict) -> TaskModel:
    folder = folder_of(config.checkpoint)
    if not task_model_lib.is_task_model(folder):
        raise UserError(
            f"checkpoint={folder} was trained for no task; fine-tune it, or have it write with "
            f"--config=configs/generate.py --config.checkpoint={folder}"
        )
    mesh = make_mesh(**config.parallel)
    run = task_model_lib.load(
        folder,
        sequence_parts=mesh.shape["sequence"],
        task={name: value for name, value in config.task.items() if value is not None},
        truncate=config.data.truncate,
    )
    task, params, model = run.task, place_params(run.params, mesh), run.model
    batch_size = divisible(config.data.batch_size, mesh)
    print(f"{folder} at step {run.step}: {run.config['task']['kind']}", flush=True)

    @with_mesh
    @functools.partial(jax.jit, out_shardings=replicated(mesh))  # Whole, to be fetched.
    @functools.partial(constrain_batch_sharding, mesh=mesh)
    def step(params, batch):
        return task.objective.outputs(model, params, batch)

    def outputs_of(examples):
        batches = evaluation_batches(
            examples,
            layout=task.layout,
            multiple=run.config["data"]["multiple"],
            batch_size=batch_size,
            row_multiple=num_batch_shards(mesh),
        )
        placed = ((rows, place_batch(batch, mesh)) for rows, batch in batches)
        results = fetched((rows, step(params, batch)) for rows, batch in placed)
        found = outputs_by_example(results, examples, task.layout)
        return [found[i] for i in range(len(examples))]

    read, predict = task.read, functools.partial(task.predictions, model=model, params=params)
    # Decoding runs one layer after the other, from weights that are not stacked.
    if isinstance(task, language.Seq2Seq | language.Chat):
        prompting.say_what_is_unused(folder, run.tokenizer)
        written_by = unstack_for_decoding(params, model.config.dtype)
        predict = functools.partial(task.predictions, model=model, params=written_by)
    if isinstance(task, language.Chat):
        sample = functools.partial(
            sampling.sample,
            model,
            written_by,
            key=jax.random.key(config.seed),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        read, predict = _replies(task, run.tokenizer, model, config.max_new_tokens, sample)
    return TaskModel(task, batch_size, read, outputs_of, predict)


def _replies(
    task: language.Chat,
    tokenizer: Tokenizer,
    model: nn.Module,
    max_new_tokens: int,
    sample: Callable[..., list],
) -> tuple[Callable, Callable]:
    """The `read` and `predict` of a chat model; `sample` draws from it."""
    stops = prompting.stops(tokenizer, task.template)
    prompting.say_what_ends(task.template)

    def read(record):
        examples = task.read(record)
        prompt = task.asked_ids(record).tolist()
        try:  # Here, so that a record that is too long is skipped as a broken one is.
            decoding.check_room(model, [prompt], max_new_tokens)
        except UserError as error:
            raise UserError(f"{record.name}: {error}") from None
        return examples

    def predict(records, outputs):
        prompts = [task.asked_ids(record).tolist() for record in records]
        written = sample(
            prompts,
            vocab_size=tokenizer.vocab_size,
            max_new_tokens=max_new_tokens,
            stop_ids=stops.ids,
            is_ended=ending.finder(tokenizer, [()] * len(prompts), stops.strings),
        )
        texts = (ending.written(tokenizer, (), x.tokens, x.stop_id, stops.strings) for x in written)
        return [{"text": x.text.strip(), "finish_reason": x.finish_reason} for x in texts]

    return read, predict


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
