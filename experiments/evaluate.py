"""Evaluates a run's newest checkpoint on its own validation split, or on another corpus."""

import pathlib
from typing import Any, NamedTuple

import ml_collections
from jax.sharding import Mesh

from experiments import finetune, pretrain, report
from experiments.wiring import eval_corpora, pretraining, task_data
from experiments.wiring.number_ranges import check_output, check_positions, folder_of
from lm.data.records import Record
from lm.errors import UserError
from lm.formats import files
from lm.interop import hugging_face
from lm.loading import language_model, task_model
from lm.loading.run_folder import tokenizer_block
from lm.models.factory import family_named
from lm.parallel.batches import place_batch
from lm.parallel.mesh import divisible, make_mesh
from lm.parallel.param_rules import place_params
from lm.system.cache import cache_folder
from lm.tasks import labels
from lm.tasks.task import Prediction
from lm.train.evaluation import beside, evaluate_sources
from lm.train.language_model import make_eval_step


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Prints the metrics that training logs as eval/*; `workdir` is not used."""
    del workdir
    folder = folder_of(config.checkpoint)
    if config.data.batch_size < 1:
        raise UserError(f"data.batch_size={config.data.batch_size} must be at least 1")
    if task_model.is_task_model(folder):
        return _fine_tuned(config, folder)
    if config.predictions:
        raise UserError(f"predictions={config.predictions}: only fine-tuned runs make predictions")
    mesh = make_mesh(**config.parallel)
    loaded = language_model.load(folder, sequence_parts=mesh.shape["sequence"])
    params = place_params(loaded.params, mesh)
    data, model = config.data, loaded.model
    if not config.data.source:
        if "data" not in loaded.config:
            raise UserError(f"{folder} was imported and has no data of its own; set data.source")
        data = loaded.config["data"]
    check_positions(data["seq_len"], model.config)
    where = dict(cache_dir=cache_folder("data"), only=("validation",))  # It may be the only split.
    tokenizer, vocab_size = tokenizer_block(folder), model.config.vocab_size
    prepared = pretraining.make_data(data, tokenizer, vocab_size, **where)
    objective = _objective(loaded)
    eval_step = make_eval_step(model, pretraining.make_objective(objective, model, prepared), mesh)
    batch_size = divisible(config.data.batch_size, mesh)

    def of_corpus(corpus):
        batches = pretrain.validation_batches(corpus, batch_size, (0, 1)).items()
        placed = {name: (place_batch(rows, mesh) for rows in of_one) for name, of_one in batches}
        num_bytes = pretrain.predicted_bytes(objective["kind"], corpus)
        return evaluate_sources(params, eval_step, placed, num_bytes=num_bytes)

    corpora = {}
    if not config.data.source:  # Those that the run was evaluated on.
        block = loaded.config.get("eval", {}).get("corpora", {})
        corpora = eval_corpora.prepare(block, data, prepared.tokenizer_block)
    others = {name: of_corpus(corpus) for name, corpus in corpora.items()}
    metrics = beside(of_corpus(prepared), others)
    print(f"{folder} at step {loaded.step}")
    for name, value in metrics.items():
        print(f"{name:>18} {value:.6f}")
    if reason := pretrain.no_bits_per_byte(objective["kind"], prepared):
        print(f"{'eval/bits_per_byte':>18} not given: {reason}")
    return 0


def _fine_tuned(config: ml_collections.ConfigDict, folder: pathlib.Path) -> int:
    """Evaluates a fine-tuned run on its own validation split, or on other labelled data."""
    # Before hours of evaluation, of which nothing would be left.
    check_output(config.predictions, config.data.validation, str(folder), key="predictions")
    found = evaluate_task(
        folder,
        make_mesh(**config.parallel),
        # What is None in the config stays as the run was trained with.
        task={name: value for name, value in config.task.items() if value is not None},
        source=config.data.source,
        validation=config.data.validation,
        batch_size=config.data.batch_size,
        on_error=config.data.on_error,
        max_document_bytes=config.data.max_document_bytes,
    )
    run, records, skipped = found.run, found.records, found.skipped
    by_label = run.task.by_label(records, found.predictions)
    names = task_model.labels_of(run.config)
    if labels.takes_numbers(run.config["task"]["kind"], names):
        print(labels.what_numbers_mean(names))
    report.print_scores(f"{folder} at step {run.step}", found.metrics, {}, by_label)
    if skipped:
        print(f"left out {len(skipped)} examples, the first of which: {skipped[0]}")
    if config.predictions:
        report.write_predictions(
            pathlib.Path(config.predictions), run.task, records, found.predictions
        )
        print(f"written to {config.predictions}")
    return 0


class Evaluated(NamedTuple):
    """What a fine-tuned run makes of labelled data."""

    run: task_model.SavedTaskModel
    records: list[Record]
    skipped: list[UserError]  # Why records were left out, where on_error="skip".
    metrics: dict[str, float]
    predictions: list[Prediction]  # One of each record.


def evaluate_task(
    folder: pathlib.Path,
    mesh: Mesh,
    *,
    task: dict[str, Any],
    source: str,
    validation: str,
    batch_size: int,
    key: str = "data.validation",
    on_error: str = "raise",
    max_document_bytes: int = files.MAX_DOCUMENT_BYTES,
) -> Evaluated:
    """Evaluates a fine-tuned run.

    Args:
      folder: of the run, or of `transformers` with a head.
      mesh: the devices to compute on.
      task: settings that replace those of the run, such as names of fields.
      source, validation: of the data, as in training; both empty for the run's own.
      batch_size: examples at a time; changes no number.
      key: of the config, which names the data in errors.
      on_error: of records that do not suit: raise, or skip.
      max_document_bytes: the longest record.

    Raises:
      UserError: no such run, or data that do not suit it.
    """
    run = task_model.load(folder, sequence_parts=mesh.shape["sequence"], task=task)
    where = dict(source=source, validation=validation, key=key)
    found = validation_records(run, on_error, max_document_bytes, **where)
    skipped, data = list(found.skipped), run.config["data"]
    split = task_data.encode(run.task, found.validation, key, on_error, skipped)
    sizes = dict(multiple=data["multiple"], batch_size=divisible(batch_size, mesh))
    evaluate = finetune.make_evaluation(run.task, run.model, mesh, split, **sizes)
    metrics, predictions = evaluate(place_params(run.params, mesh))
    return Evaluated(run, split.records, skipped, metrics, predictions)


def validation_records(
    run: task_model.SavedTaskModel,
    on_error: str = "raise",
    max_document_bytes: int = files.MAX_DOCUMENT_BYTES,
    *,
    source: str,
    validation: str,
    key: str = "data.validation",
) -> task_data.Records:
    """Reads the records that a fine-tuned run was validated with, or others; see `evaluate_task`.

    Raises:
      UserError: a run without data of its own, or data that cannot be read.
    """
    if "source" in run.config and not (source or validation):
        raise UserError(
            f"{run.folder} was imported and has no data of its own; set --config.{key}=FILE"
        )
    data = ml_collections.ConfigDict(run.config["data"])  # Of training, but for what is given here.
    if source or validation:
        data.update(source=source, validation=validation)
    if data.validation:
        data.train = ""  # It may be gone.
    data.on_error = on_error
    data["max_document_bytes"] = max_document_bytes
    return task_data.read_records(data, run.config["task"]["kind"])


def _objective(loaded: language_model.SavedRun) -> dict[str, Any]:
    """Returns what the run was trained for; of an imported model, what its paper trained it for."""
    if "objective" in loaded.config:
        return loaded.config["objective"]
    folder = loaded.folder
    if hugging_face.is_folder(folder) and hugging_face.is_bare_encoder(folder):
        raise UserError(
            f"{folder} is a bare encoder, without a head that could be evaluated; train it for a "
            f"task first: --config.init_from={folder}"
        )
    architecture = family_named(loaded.config["model"]["name"]).architecture
    objective = _OF_PAPERS[architecture]
    if architecture != "decoder":
        rates = ", ".join(f"{name}={value}" for name, value in objective.items())
        print(f"{folder} was imported and names no objective; evaluated with {rates}")
    return objective


_OF_PAPERS = {
    "decoder": {"kind": "causal"},
    # Devlin et al. 2019, section 3.1, and Raffel et al. 2020, section 3.1.4.
    "encoder": dict(kind="masked", rate=0.15, mask_share=0.8, random_share=0.1, whole_words=False),
    "encoder_decoder": dict(kind="span_corruption", noise_density=0.15, mean_span_length=3.0),
}
