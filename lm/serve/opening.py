"""Opens what is served: a run or a folder, what works for it, and readings of what that does."""

import pathlib
import time
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from lm.errors import UserError
from lm.generation import decoding
from lm.generation.engine import Engine
from lm.generation.service import GenerationService
from lm.inference import prompting, writing
from lm.inference.export import model_config
from lm.loading import run as run_lib
from lm.loading.run import Run
from lm.loading.task_model import SavedTaskModel
from lm.models.factory import family_named
from lm.models.int8 import quantize_for_decoding
from lm.models.kv_cache import unstack_for_decoding
from lm.serve import computing
from lm.serve.metrics import Counter, Metrics, Reading
from lm.serve.served_model import ServedModel
from lm.tasks import language

_COMPILED = "/jax/core/compile/backend_compile_duration"  # An event of JAX.


def open_model(
    name: str,
    folder: pathlib.Path,
    *,
    mesh: Mesh,
    num_slots: int,
    max_len: int,
    max_waiting: int,
    prefix_bytes: int,
    exact: bool,
    int8: bool,
    pooling: str,
    batch_size: int,
) -> ServedModel:
    """Opens a run, or a folder of `transformers`, with all that it can do.

    Args:
      name: that clients call it by.
      folder: see `lm.load`.
      mesh: over which parameters and caches are divided.
      num_slots: texts that are written at once.
      max_len: the most tokens of a prompt and its text; 0 for the model's positions.
      max_waiting: prompts, and texts of tasks and for vectors, that may wait.
      prefix_bytes, exact: see `Engine`.
      int8: whether what writes has matrices of 8-bit integers; see `lm.models.int8`.
      pooling: see `Embedder`.
      batch_size: see `make_predictor`.

    Raises:
      UserError: it has not so many positions, or any number where none is asked for.
    """
    run = run_lib.load(folder, mesh=mesh)
    positions = model_config(run.model).max_len
    if not max_len and positions is None:
        raise UserError(
            f"max_len is not set, and checkpoint={folder} reads any number of tokens; set it"
        )
    if positions is not None and max_len > positions:
        raise UserError(f"max_len={max_len} exceeds the {positions} positions of {folder}")
    service = task = embedder = None
    if _writes(run):
        prompting.say_what_is_unused(folder, run.tokenizer)
        writer = writing.make_writer(run)
        if writer.template is not None:
            prompting.say_what_ends(writer.template)
        params = unstack_for_decoding(run.params, run.model.config.dtype)
        engine = Engine(
            run.model,
            quantize_for_decoding(params) if int8 else params,
            num_texts=num_slots,
            max_len=max_len or positions,
            prefix_bytes=prefix_bytes,
            exact=exact,
            **decoding.vocabulary(run.tokenizer),
        )
        service = GenerationService(engine, run.tokenizer, max_waiting=max_waiting)
    if isinstance(run, SavedTaskModel):
        task = computing.open_task(run, mesh, batch_size=batch_size, max_waiting=max_waiting)
    if computing.embeds(run):
        embedder = computing.open_embedder(run, pooling=pooling, max_waiting=max_waiting)
    opened = int(time.time())
    length = max_len or positions
    return ServedModel(name, run, service, length, max_waiting, opened, embedder, task)


def _writes(run: Run) -> bool:
    is_headless = not isinstance(run, SavedTaskModel) or isinstance(
        run.task, language.Seq2Seq | language.Chat
    )
    return is_headless and family_named(run.config["model"]["name"]).architecture != "encoder"


def add_readings(metrics: Metrics, models: Sequence[ServedModel]) -> None:
    """Adds what works for models, and how many programs were compiled, to the metrics."""

    def of_all(key: str):
        return lambda: {
            (("model", model.name), ("work", work)): worker.stats()[key]
            for model in models
            for work, worker in model.workers.items()
        }

    for key, kind, name, words in (
        ("waiting", "gauge", "lm_waiting", "Prompts or records that wait."),
        ("active", "gauge", "lm_active", "Texts that are being written, or records at work."),
        ("slots", "gauge", "lm_slots", "Texts or records that there is room for at once."),
        ("cache_bytes", "gauge", "lm_cache_bytes", "Bytes of keys and values."),
        ("steps", "counter", "lm_steps_total", "Steps, of which each writes a token of each text."),
        ("seconds", "counter", "lm_step_seconds_total", "Seconds of work."),
    ):
        metrics.add(name, words, Reading(kind, of_all(key)))
    compiled = metrics.add("lm_compilations_total", "Programs that were compiled.", Counter())
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.add() if event == _COMPILED else None
    )
