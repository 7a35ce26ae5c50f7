"""What `verify` checks of pretraining.

Dimension key: B batch, L length (of the decoder), M encoder length, P predicted tokens.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import pretrain, report, training
from experiments.verify import subject
from experiments.verify.subject import Devices, ShrunkRun, StepUnderTest, Variation, multiple
from experiments.wiring import (
    eval_corpora,
    eval_fairness,
    init_from,
    mixtures,
    pretraining,
    task_data,
    variants,
)
from lm.corpus import sources
from lm.corpus.batches import Batches, Corpus
from lm.corpus.packed_rows import JoinedRows
from lm.corpus.packing import Piece
from lm.corpus.preparation import SPLITS
from lm.corpus.rows import rows_from_pieces
from lm.corpus.sources import Document
from lm.errors import UserError
from lm.models.parameters import Params
from lm.objectives.batch import Batch, Objective
from lm.parallel.mesh import make_mesh
from lm.train import evaluation
from lm.train.language_model import make_eval_step

_SEQ_LEN, _DOCUMENT_CHARS, _TRAIN_CHARS, _VALIDATION_CHARS = 64, 3000, 300_000, 4000
_NUM_DOCUMENTS = 8  # Whose costs are compared, at most.


def make(
    config: ml_collections.ConfigDict,
    own: Sequence[jax.Device],
    home: Devices,
    mesh: Devices,
    folder: pathlib.Path,
) -> ShrunkRun:
    """The subject of a config of pretraining, after checking that config as a run would.

    Args:
      config: as the user gave it.
      own: the devices of a run.
      home, mesh: see `ShrunkRun`.
      folder: for files, as long as the subject is used.

    Raises:
      UserError: what a run would raise.
    """
    # Of epochs of a million rows: to count them the corpus would have to be prepared.
    config = variants.with_num_steps(init_from.with_model(config), 10**6)
    pretraining.abstract_state(pretraining.make_parts(config, own))
    metrics = eval_corpora.metrics_of(config.data, config.eval.corpora)
    training.check(config, metrics + eval_fairness.read(config.data, config.eval).metrics, None)
    config = _shrunk(config, mesh, folder)
    parts = pretraining.make_parts(subject.varied(config, Variation(home)), home)
    prepared = pretraining.make_data(
        config.data, config.tokenizer, config.model.vocab_size, cache_dir=folder, num_processes=1
    )
    kind = config.objective.kind
    objective = pretraining.make_objective(config.objective, parts.model, prepared)
    key = jax.random.key(config.seed)

    @subject.kept(has_dropout=config.model.get("dropout", 0) > 0, draws=kind != "causal")
    def trainer(variant: Variation) -> StepUnderTest:
        parts = pretraining.make_parts(subject.varied(config, variant), variant.devices)
        if variant.plain:
            parts = dataclasses.replace(parts, tx=subject.PLAIN)
        same = lambda rows, key: objective(rows, jax.random.key(0))
        abstract = pretraining.abstract_state(parts)
        step, place = pretraining.make_step(
            parts, same if variant.same_draws else objective, abstract
        )
        first = init_from.make_state("", parts, abstract)(config.seed)
        step = partial(step, key=key)
        return StepUnderTest(abstract, lambda: subject.copied(first), step, place)

    num_blocks, num_bytes_of = config.loss.num_blocks, partial(pretrain.predicted_bytes, kind)
    corpora = eval_corpora.prepare(
        config.eval.corpora, config.data, prepared.tokenizer_block, cache_dir=folder
    )
    evaluated = [*prepared.corpora.values(), *corpora.values()]

    def evaluate(params, batch_size):
        def of(corpus, others):
            sizes = dict(batch_size=batch_size, num_blocks=num_blocks)
            with_bytes = {name: (other, num_bytes_of(other)) for name, other in others.items()}
            return pretrain.make_evaluation(
                parts,
                objective,
                corpus,
                **sizes,
                num_bytes=num_bytes_of(corpus),
                corpora=with_bytes,
            )(params)

        if batch_size > 1:
            return of(prepared, corpora)
        # One by one, as rows are, so that none is taken for another.
        return evaluation.beside(of(prepared, {}), {n: of(c, {}) for n, c in corpora.items()})

    batch_size = config.data.batch_size
    make_batches = lambda: mixtures.make_batches(
        prepared, batch_size=batch_size, seed=config.seed, num_steps=config.train.num_steps
    )
    return ShrunkRun(
        home=home,
        mesh=mesh,
        trainer=trainer,
        make_batches=make_batches,
        uneven=_uneven(prepared, make_batches(), batch_size),
        evaluate=evaluate,
        num_evaluated=[corpus.splits["validation"].num_rows for corpus in evaluated],
        costs=_costs(
            parts,
            objective,
            prepared,
            make_batches().reader,
            is_causal=kind == "causal",
            num_blocks=num_blocks,
        ),
        chance=subject.INIT_FROM if config.init_from else math.log(config.model.vocab_size),
        not_overfit="",
    )


def _shrunk(
    config: ml_collections.ConfigDict, mesh: Devices, folder: pathlib.Path
) -> ml_collections.ConfigDict:
    """Shrinks a config, to short rows of the beginnings of some documents, and few pieces."""
    config = subject.shrunk(config, mesh)
    grid = make_mesh(**config.parallel, devices=mesh)
    config.data.seq_len = multiple(min(config.data.seq_len, _SEQ_LEN), grid.shape["sequence"])
    config.eval.sample_tokens = 0
    is_mixed = "sources" in config.data
    blocks = config.data.sources.items() if is_mixed else [("", config.data)]
    write = partial(_write_beginnings, data=config.data, folder=folder)
    train_texts: list[str] = []
    for name, block in blocks:
        # Now, since below each split becomes a file of its own.
        if both := sources.in_both(block.source, block.train, block.validation):
            where = f"data.sources.{name}" if is_mixed else "data"
            report.warn([f"{where}.train and .validation both have {', '.join(both[:5])}"])
        train, _ = (
            write(block, split, name, num_chars // len(blocks))
            for split, num_chars in zip(SPLITS, (_TRAIN_CHARS, _VALIDATION_CHARS), strict=True)
        )
        train_texts += train
        block.update(source="jsonl", field="text")
    for name, block in config.eval.corpora.items():
        try:
            write(block, "validation", f"of-{name}-", _VALIDATION_CHARS)
        except UserError as error:
            raise UserError(f"eval.corpora.{name}: {error}") from None
        block.update(source="jsonl", field="text")
    if is_mixed:
        _shrink_mixture(config.data)
    if "vocab_size" in config.tokenizer:
        wanted = _num_pieces(config.tokenizer, train_texts)
        config.tokenizer.vocab_size = min(config.tokenizer.vocab_size, wanted)
        parts = math.lcm(64, grid.shape["tensor"])  # The table is cut over `tensor`.
        config.model.vocab_size = multiple(config.tokenizer.vocab_size, parts)
    return config


def _shrink_mixture(data: ml_collections.ConfigDict) -> None:
    """Lets short sources be repeated, and gives each stage as many of the few steps."""
    for block in data.sources.values():
        block.max_epochs = 0.0
    stages = data.mixture.stages
    first = 0 if stages and stages[0][0] == 0 else 1  # What comes before them is one, too.
    num = len(stages) + first
    data.mixture.stages = tuple((i / num, w) for i, (_, w) in enumerate(stages, start=first))


def _write_beginnings(
    block: ml_collections.ConfigDict,
    split: str,
    name: str,
    num_chars: int,
    *,
    data: ml_collections.ConfigDict,
    folder: pathlib.Path,
) -> list[str]:
    """Writes the beginnings of a split's documents into a file, which becomes the split."""
    source = sources.make_source(
        block.source,
        split=split,
        spec=block[split],
        field=block.field,
        **task_data.document_limit(data),
    )
    texts = _beginnings(sources.readable(source, data.on_error, []), num_chars)
    path = folder / f"{name}{split}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    block[split] = str(path)
    return texts


def _beginnings(documents: Iterable[Document], num_chars: int) -> list[str]:
    texts, size = [], 0
    for document in documents:
        texts.append(document.text[:_DOCUMENT_CHARS])
        size += len(texts[-1])
        if size >= num_chars:
            break
    return texts


def _num_pieces(tokenizer: ml_collections.ConfigDict, texts: list[str]) -> int:
    """Counts pieces for every byte, every character, every special token, and some words."""
    num_special = len(tokenizer.user_symbols) + tokenizer.num_sentinels
    return 512 + num_special + len(set().union(*texts))


def _uneven(prepared: Corpus, batches: Batches, batch_size: int) -> Any:
    """Makes a training batch whose last rows, not quite half of them, are padding."""
    ids = batches.rows_at(0)
    pieces = batches.reader.read(ids)
    # Micro-batches take rows in turn: of an even number of padded rows each would have half.
    pieces[batch_size // 2 + 1 :] = [[] for _ in pieces[batch_size // 2 + 1 :]]
    return rows_from_pieces(pieces, prepared.seq_len, prepared.tokenizer.pad_id or 0, ids)


def _costs(
    parts: pretraining.PretrainingParts,
    objective: Objective,
    prepared: Corpus,
    reader: JoinedRows,
    *,
    is_causal: bool,
    num_blocks: int,
) -> Callable[[Params], Any]:
    """params -> the cost of each document of the row that holds most, there and in its own row."""

    def lay_out(pieces: Sequence[Piece], number: int) -> Batch:
        rows = rows_from_pieces(
            [pieces], prepared.seq_len, prepared.tokenizer.pad_id or 0, [number]
        )
        return jax.device_get(objective(rows, jax.random.key(0)))

    def costs(params):
        rows = reader.read(range(len(reader)))
        number = max(range(len(rows)), key=lambda i: len(rows[i]))
        row = lay_out(rows[number], number)
        asked = [d for d in range(1, len(rows[number]) + 1) if _is_asked(row, d)]
        if len(asked) < 2:
            return "no row holds two documents of which something is predicted"
        as_it_is = lambda batch, key: batch  # In place of an objective, which was applied above.
        eval_step = make_eval_step(parts.model, as_it_is, parts.mesh, num_blocks)
        cost = lambda batch: float(eval_step(params, batch)["nll"])
        together, alone = [], []
        for d in asked[:_NUM_DOCUMENTS]:
            together.append(cost(row.replace(weights_BL=row.weights_BL * _is_about(row, d))))
            # What other objectives ask is drawn for the row: drawn anew, it would be other tokens.
            batch = lay_out([rows[number][d - 1]], number) if is_causal else _take_out(row, d)
            alone.append(cost(batch))
        return np.array(together), np.array(alone)

    return costs


def _is_about(batch: Batch, document: int) -> np.ndarray:
    """Marks the targets that are the document's."""
    segment_ids_BL = batch.inputs["segment_ids_BL"]
    if "predict_BP" in batch.inputs:
        segment_ids_BL = np.take_along_axis(segment_ids_BL, batch.inputs["predict_BP"], axis=1)
    return segment_ids_BL == document


def _is_asked(batch: Batch, document: int) -> bool:
    """Tells whether a document has targets, and an encoder, if any, some of it to read."""
    has_encoder = "encoder_segment_ids_BM" in batch.inputs
    read_BM = batch.inputs["encoder_segment_ids_BM" if has_encoder else "segment_ids_BL"]
    asked_BL = batch.weights_BL * _is_about(batch, document)
    return bool(asked_BL.any() and (read_BM == document).any())


def _take_out(row: Batch, document: int) -> Batch:
    """A batch of one packed row -> the same with one of its documents, at the start, alone."""
    weights_BL = row.weights_BL * _is_about(row, document)
    here_BL = row.inputs["segment_ids_BL"] == document
    inputs = {}
    for name, x in row.inputs.items():
        if name.startswith("encoder_"):
            inputs[name] = _to_start(x, row.inputs["encoder_segment_ids_BM"] == document)
        elif name == "predict_BP":  # Places in the row, counted from the document's first token.
            inputs[name] = (x - np.argmax(here_BL)) * (weights_BL > 0)
        elif name == "positions_BL":
            inputs[name] = np.arange(x.shape[1])[None] * (np.arange(x.shape[1]) < here_BL.sum())
        else:
            inputs[name] = _to_start(x, here_BL)
    if "predict_BP" in inputs:  # Targets and weights go by `predict_BP`, and stay where they are.
        return Batch(inputs, row.targets_BL, weights_BL)
    return Batch(inputs, _to_start(row.targets_BL, here_BL), _to_start(weights_BL, here_BL))


def _to_start(x_BL: np.ndarray, here_BL: np.ndarray) -> np.ndarray:
    """Moves what stands at the places that are True to the start; zeros follow."""
    moved_BL = np.zeros_like(x_BL)
    moved_BL[:, : here_BL.sum()] = x_BL[here_BL]
    return moved_BL
