"""Makes a fine-tuned run, or a folder with the head of a task, ready for new records."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from lm.data.examples import Features, evaluation_batches, outputs_by_example
from lm.data.records import Record
from lm.errors import UserError
from lm.generation import decoding, ending, sampling
from lm.inference import prompting
from lm.inference.few_shapes import FewShapes, batch_of
from lm.loading.task_model import SavedTaskModel
from lm.models.kv_cache import unstack_for_decoding
from lm.parallel.batches import place_batch
from lm.parallel.mesh import divisible, num_batch_shards, replicated, with_mesh
from lm.parallel.param_rules import constrain_batch_sharding, place_params
from lm.tasks import language
from lm.tasks.prediction import Predicted, predictions
from lm.tasks.task import Outputs, Task
from lm.train.evaluation import fetched


class Replies(NamedTuple):
    """How replies to conversations are written; other tasks write as they are evaluated."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int


class Predictor(NamedTuple):
    """A model that is ready for new records.

    compile: compiles all shapes of `outputs_of`, where they are few.
    """

    task: Task
    batch_size: int
    read: Callable[[Record], list[Features]]
    outputs_of: Callable[[list[Features]], list[Outputs]]
    predict: Callable[[list[Record], list[list[Outputs]]], list[Any]]
    compile: Callable[[], None]

    def __call__(self, records: Iterable[Record | UserError]) -> Iterator[Predicted]:
        """Predicts records in their order; see `prediction.predictions`."""
        return predictions(
            records,
            self.read,
            self.task.notes,
            self.outputs_of,
            self.predict,
            batch_size=self.batch_size,
        )


def make_predictor(
    run: SavedTaskModel,
    mesh: Mesh,
    *,
    batch_size: int,
    replies: Replies | None = None,
    has_few_shapes: bool = False,
) -> Predictor:
    """Makes a predictor of a run.

    Args:
      run: see `task_model.load`.
      mesh: the devices to compute on, with the `sequence_parts` that the run was opened with.
      batch_size: records at a time, over all devices; changes no number.
      replies: of tasks of conversations, and of no others.
      has_few_shapes: each example has a row of its own, of few lengths (`FewShapes`), whoever is
        computed beside it; in place of rows as full as they can be, which take a third less time.
    """
    task, params, model = run.task, place_params(run.params, mesh), run.model
    batch_size = divisible(batch_size, mesh)

    @functools.partial(jax.jit, out_shardings=replicated(mesh))  # Whole, to be fetched.
    @functools.partial(constrain_batch_sharding, mesh=mesh)
    def outputs(params, batch):
        return task.objective.outputs(model, params, batch)

    step, lower = with_mesh(outputs), with_mesh(outputs.lower)
    row_multiple, seq_len = num_batch_shards(mesh), run.config["data"]["seq_len"]
    shapes = FewShapes(longest=seq_len, row_multiple=row_multiple)

    def few_shapes(examples):
        for group in shapes.groups(list(map(task.layout.size, examples))):
            here = [examples[i] for i in group.indices]
            batch, rows = batch_of(here, task.layout, group.num_rows, group.length)
            yield [[group.indices[i] for i in row] for row in rows], batch

    def compile_all():
        (example, *_) = task.read(task.sample()) or [None]
        for num_rows, length in shapes if example is not None else ():
            batch, _ = batch_of([example], task.layout, num_rows, length)
            lower(params, place_batch(batch, mesh)).compile()  # What later calls take.

    def outputs_of(examples):
        batches = (
            few_shapes(examples)
            if has_few_shapes
            else evaluation_batches(
                examples,
                layout=task.layout,
                multiple=run.config["data"]["multiple"],
                batch_size=batch_size,
                row_multiple=row_multiple,
            )
        )
        placed = ((rows, place_batch(batch, mesh)) for rows, batch in batches)
        results = fetched((rows, step(params, batch)) for rows, batch in placed)
        found = outputs_by_example(results, examples, task.layout)
        return [found[i] for i in range(len(examples))]

    read, predict = task.read, functools.partial(task.predictions, model=model, params=params)
    # Decoding runs one layer after the other, from weights that are not stacked.
    if isinstance(task, language.Seq2Seq | language.Chat):
        prompting.say_what_is_unused(run.folder, run.tokenizer)
        written_by = unstack_for_decoding(params, model.config.dtype)
        predict = functools.partial(task.predictions, model=model, params=written_by)
    if isinstance(task, language.Chat):
        read, predict = _replies(run, written_by, replies)
    return Predictor(task, batch_size, read, outputs_of, predict, compile_all)


def _replies(run: SavedTaskModel, params: Any, replies: Replies) -> tuple[Callable, Callable]:
    """Makes the `read` and `predict` of a chat model."""
    task, tokenizer = run.task, run.tokenizer
    stops = prompting.stops(tokenizer, task.template)
    prompting.say_what_ends(task.template)

    def read(record):
        examples = task.read(record)
        prompt = task.asked_ids(record).tolist()
        try:  # Here, so that a record that is too long is skipped as a broken one is.
            decoding.check_room(run.model, [prompt], replies.max_new_tokens)
        except UserError as error:
            raise UserError(f"{record.name}: {error}") from None
        return examples

    def predict(records, outputs):
        prompts = [task.asked_ids(record).tolist() for record in records]
        written = sampling.sample(
            run.model,
            params,
            prompts,
            key=jax.random.key(replies.seed),
            temperature=replies.temperature,
            top_k=replies.top_k,
            top_p=replies.top_p,
            min_p=replies.min_p,
            repetition_penalty=replies.repetition_penalty,
            vocab_size=tokenizer.vocab_size,
            max_new_tokens=replies.max_new_tokens,
            stop_ids=stops.ids,
            is_ended=ending.finder(tokenizer, [()] * len(prompts), stops.strings),
        )
        texts = (ending.written(tokenizer, (), x.tokens, x.stop_id, stops.strings) for x in written)
        return [{"text": x.text.strip(), "finish_reason": x.finish_reason} for x in texts]

    return read, predict
