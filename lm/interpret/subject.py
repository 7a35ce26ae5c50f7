"""Opens any run, or a folder of `transformers`, to be looked into, and reads texts as it does.

Dimension key: B batch, L length, M encoder length, W words, E texts of a row.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.data.alignment import encode_words, first_pieces
from lm.errors import UserError
from lm.formats.fields import Record
from lm.inference import prompting
from lm.interpret import capture, cells
from lm.interpret.capture import Patch
from lm.interpret.cells import Cell
from lm.loading import run as run_lib
from lm.loading.run import Run
from lm.loading.task_model import SavedTaskModel
from lm.models import heads
from lm.models.factory import family_named
from lm.models.layers import LazyLogits
from lm.models.parameters import Params
from lm.tasks import language
from lm.tasks.text import lengths_of
from lm.tokenizers.offsets import Offsets
from lm.tokenizers.tokenizers import Tokenizer

_MULTIPLE = 16  # Texts are filled up to a multiple of so many tokens: few programs.


class Side(NamedTuple):
    """The tokens of a sequence that a model reads, without padding, and how people read them."""

    ids_L: np.ndarray
    cells: list[Cell]


class Text(NamedTuple):
    """A text as a model reads it.

    sides: by "" for the one sequence of most models; by "encoder/" and "decoder/" where there are
      two. They are what names of sites begin with behind that of the body.
    inputs: what `run_model` takes, one row, filled up.
    """

    name: str
    sides: dict[str, Side]
    inputs: dict[str, Any]

    def side(self, site: str) -> Side:
        """Finds the sequence whose positions a site has."""
        if "" in self.sides:
            return self.sides[""]
        return self.sides["decoder/" if site.startswith("decoder/") else "encoder/"]

    @property
    def written(self) -> Side:
        """Gives the sequence that logits are of: the decoder's, where there are two."""
        return list(self.sides.values())[-1]


class Subject(NamedTuple):
    """A model that is looked into."""

    folder: pathlib.Path
    step: int
    kind: str  # "language model", or the kind of its task.
    model: nn.Module  # With attention that keeps its probabilities.
    params: Params
    run: Run
    note: str  # Which kernel gave way; "" for none.

    @property
    def body(self) -> str:
        """What the names of sites of the body begin with."""
        return "body/" if hasattr(self.model, "body") else ""

    @property
    def architecture(self) -> str:
        """One of decoder, encoder and encoder_decoder; of a head on T5, which has its encoder."""
        found = family_named(self.run.config["model"]["name"]).architecture
        return "encoder" if found == "encoder_decoder" and self.body else found


def run_model(
    model: nn.Module,
    params: Params,
    inputs: Mapping[str, Any],
    keep: Collection[str] = (),
    patches: Mapping[str, Patch] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Makes logits of a text: float32, the last dimension of outputs; of a CRF, its emissions.

    Args:
      model: of a `Subject`.
      params: its parameters.
      inputs: of a `Text`.
      keep, patches: see `capture.observe`, which also says what is raised.

    Returns:
      The logits, and arrays by the names of sites.
    """
    output, seen = capture.observe(
        model, params, keep=keep, patches=patches, method=_method(model), **inputs
    )
    output = output.logits() if isinstance(output, LazyLogits) else output
    return output.astype(jnp.float32), seen


def sites(subject: Subject, inputs: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists the sites that a text passes; see `capture.sites`."""
    return capture.sites(subject.model, subject.params, method=_method(subject.model), **inputs)


def seen(
    subject: Subject, inputs: Mapping[str, Any], names: Collection[str]
) -> dict[str, jax.Array]:
    """Computes what stands at sites while a model reads a text, by their names."""
    return _seen(subject.model, subject.params, inputs, tuple(names))


@functools.partial(jax.jit, static_argnames=("model", "names"))
def _seen(model, params, inputs, names):
    return run_model(model, params, inputs, keep=names)[1]


def _method(model: nn.Module) -> Any:
    return _emissions if isinstance(model, heads.CRFTagger) else "__call__"


def _emissions(model: heads.CRFTagger, inputs: heads.Inputs, at_BW: jax.Array) -> jax.Array:
    return model.emissions(inputs, at_BW)


def open_subject(folder: pathlib.Path) -> Subject:
    """Opens a run or a folder of `transformers` as `lm.load` does.

    Raises:
      UserError: it cannot be opened.
    """
    run = run_lib.load(folder)
    model, note = capture.observable(run.model)
    kind = run.config["task"]["kind"] if isinstance(run, SavedTaskModel) else "language model"
    return Subject(folder, run.step, kind, model, run.params, run, note)


def from_text(subject: Subject) -> Callable[[str, str], Record]:
    """Gives what makes a record of a line of plain text; raises UserError where tasks read more."""
    if isinstance(subject.run, SavedTaskModel):
        return subject.run.task.from_text
    return lambda name, text: Record(name, {"text": text})


def read(subject: Subject, record: Record, *, is_whole: bool) -> list[Text]:
    """Reads a record as the model does; a context that is long is several texts.

    Args:
      subject: reads it.
      record: of a language model the field "text", and where it has an encoder "target", what the
        decoder has written; of a task its own fields.
      is_whole: whether a text that a decoder goes on from ends with what ends texts in training.

    Raises:
      UserError: the record does not suit, or is longer than the model's positions.
    """
    if isinstance(subject.run, SavedTaskModel):
        return _read_task(subject, subject.run, record)
    return [_read_text(subject, record, is_whole)]


def _read_text(subject: Subject, record: Record, is_whole: bool) -> Text:
    reader, tokenizer = prompting.reader_of(subject.run), subject.run.tokenizer
    text = record.fields.get("text")
    if not isinstance(text, str) or not text:
        raise UserError(f"{record.name}: the field 'text' is no text, or empty; give it some")
    start, end = _affixes(subject, is_whole)
    side = _side(reader, text, start, end)
    if not len(side.ids_L):
        raise UserError(f"{record.name}: the tokenizer drops all of the text")
    _check_length(subject, record.name, len(side.ids_L))
    if not reader.has_encoder:
        return Text(record.name, {"": side}, _language_inputs(subject, side.ids_L))
    target = record.fields.get("target", "")
    if not isinstance(target, str):
        raise UserError(f"{record.name}: the field 'target' is no text")
    written = _side(reader, target, (tokenizer.pad_id or 0,), end if target and is_whole else ())
    sides = {"encoder/": side, "decoder/": written}
    return Text(record.name, sides, _encoder_decoder_inputs(side.ids_L, written.ids_L))


def _affixes(subject: Subject, is_whole: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Gives what stands around a text that a language model reads."""
    tokenizer, config = subject.run.tokenizer, subject.run.config
    has_encoder = subject.architecture == "encoder_decoder"
    start, end = tokenizer.prefix_ids, tokenizer.suffix_ids
    if config["experiment"] == "pretrain":
        named = lambda token_id, wanted: (token_id,) if wanted and token_id is not None else ()
        start = named(tokenizer.bos_id, config["data"]["add_bos"] and not has_encoder)
        end = named(tokenizer.eos_id, config["data"]["add_eos"] or has_encoder)
    return start, () if subject.architecture == "decoder" and not is_whole else end


def read_words(subject: Subject, name: str, words: Sequence[str]) -> tuple[Text, np.ndarray]:
    """Reads a text in words, by the encoder where there is one; and each word's first token.

    Raises:
      UserError: it is longer than the model's positions.
    """
    tokenizer, run = subject.run.tokenizer, subject.run
    ids_L, word_of_L = encode_words(tokenizer, words)
    first_W = first_pieces(word_of_L)
    if isinstance(run, SavedTaskModel) and subject.body:
        features, first_W = run.task.objective.inputs.frame_words(name, ids_L, first_W)
        features |= {"first_BW": first_W} if "first_BW" in _features(run) else {}
        return _head_text(subject, run, name, features, None), first_W
    start, end = _affixes(subject, is_whole=False)
    ids_L = np.concatenate([start, ids_L, end]).astype(np.int32)
    _check_length(subject, name, len(ids_L))
    side, first_W = Side(ids_L, cells.of_ids(tokenizer, ids_L.tolist())), first_W + len(start)
    if subject.architecture != "encoder_decoder":
        return Text(name, {"": side}, _language_inputs(subject, ids_L)), first_W
    start_L = np.array([tokenizer.pad_id or 0], np.int32)
    sides = {"encoder/": side, "decoder/": Side(start_L, cells.of_ids(tokenizer, start_L.tolist()))}
    return Text(name, sides, _encoder_decoder_inputs(ids_L, start_L)), first_W


def _features(run: SavedTaskModel) -> tuple[str, ...]:
    """Names the features that a head picks places by."""
    return ("first_BW",) if run.config["task"]["kind"] == "tagging" else ()


def _side(
    reader: prompting.TextReader, text: str, start: tuple[int, ...], end: tuple[int, ...]
) -> Side:
    tokenizer = reader.tokenizer
    encode = tokenizer.encode_written if reader.reads_special else tokenizer.encode_with_offsets
    offsets = encode(text)
    if tuple(offsets.ids[: len(start)]) == start:  # A text may spell out its own start.
        start = ()
    ids_L = np.concatenate([start, offsets.ids, end]).astype(np.int32)
    inner = [
        cell._replace(is_special=_is_special(tokenizer, int(ids_L[cell.first])))
        for cell in cells.of_text(text, offsets, len(start))
    ]
    before = cells.of_ids(tokenizer, start)
    return Side(ids_L, [*before, *inner, *cells.of_ids(tokenizer, end, len(ids_L) - len(end))])


def _check_length(subject: Subject, name: str, length: int) -> None:
    most = subject.model.config.max_len
    if most is not None and length > most:
        raise UserError(f"{name}: {length} tokens exceed the model's {most} positions; shorten it")


def _filled(ids_L: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Fills up one row: its tokens, and segments of 1, or 0 for what was filled: 1 x L each."""
    size = -(-len(ids_L) // _MULTIPLE) * _MULTIPLE
    size = size if most is None else min(size, most)
    fill = size - len(ids_L)
    segments_L = np.pad(np.ones(len(ids_L), np.int32), (0, fill))
    return np.pad(ids_L, (0, fill))[None], segments_L[None]


def _language_inputs(subject: Subject, ids_L: np.ndarray) -> dict[str, Any]:
    tokens_BL, segment_ids_BL = _filled(ids_L, subject.model.config.max_len)
    at_BL = np.arange(tokens_BL.shape[1], dtype=np.int32)[None]
    return dict(tokens_BL=tokens_BL, positions_BL=at_BL, segment_ids_BL=segment_ids_BL)


def _encoder_decoder_inputs(encoder_M: np.ndarray, decoder_L: np.ndarray) -> dict[str, Any]:
    encoder_tokens_BM, encoder_segment_ids_BM = _filled(encoder_M)
    tokens_BL, segment_ids_BL = _filled(decoder_L)
    return dict(
        encoder_tokens_BM=encoder_tokens_BM,
        encoder_segment_ids_BM=encoder_segment_ids_BM,
        tokens_BL=tokens_BL,
        segment_ids_BL=segment_ids_BL,
    )


def _read_task(subject: Subject, run: SavedTaskModel, record: Record) -> list[Text]:
    task = run.task
    if isinstance(task, language.Seq2Seq | language.Chat):  # They read no more than they write.
        texts = [(features, record.name) for features in task.encode(record)]
        return [_written(subject, features, name) for features, name in texts]
    found = []
    for i, features in enumerate(task.read(record)):
        name = record.name if not i else f"{record.name}, window {i + 1}"
        found.append(_head_text(subject, run, name, features, record))
    return found


def _head_text(
    subject: Subject,
    run: SavedTaskModel,
    name: str,
    features: Mapping[str, Any],
    record: Record | None,
) -> Text:
    ids_L = np.asarray(features["tokens_BL"])
    found = (
        cells.of_ids(run.tokenizer, ids_L.tolist())
        if record is None
        else _cells_of_fields(run.tokenizer, ids_L, record)
    )
    batch = {key: np.asarray(value)[None] for key, value in features.items()}
    batch["tokens_BL"], _ = _filled(ids_L, run.config["data"]["seq_len"])
    if "types_BL" in batch:
        fill = batch["tokens_BL"].shape[1] - len(ids_L)
        batch["types_BL"] = np.pad(batch["types_BL"], ((0, 0), (0, fill)))
    return Text(name, {"": Side(ids_L, found)}, _head_inputs(subject.model, run, batch))


def _head_inputs(model: nn.Module, run: SavedTaskModel, batch: dict[str, Any]) -> dict[str, Any]:
    inputs = jax.tree.map(np.asarray, run.task.objective.inputs.inputs(batch))
    if isinstance(model, heads.SequenceHead):
        return dict(inputs=inputs, length_BE=lengths_of(batch))
    return dict(inputs=inputs) | ({"at_BW": batch["first_BW"]} if "first_BW" in batch else {})


def _written(subject: Subject, features: Mapping[str, Any], name: str) -> Text:
    tokenizer = subject.run.tokenizer
    if "encoder_tokens_BM" not in features:
        ids_L = features["tokens_BL"]
        side = Side(ids_L, cells.of_ids(tokenizer, ids_L.tolist()))
        return Text(name, {"": side}, _language_inputs(subject, ids_L))
    start = np.array([tokenizer.pad_id or 0], np.int32)
    both = features["encoder_tokens_BM"], np.concatenate([start, features["targets_BL"]])
    sides = [Side(ids_L, cells.of_ids(tokenizer, ids_L.tolist())) for ids_L in both]
    named = dict(zip(("encoder/", "decoder/"), sides, strict=True))
    return Text(name, named, _encoder_decoder_inputs(*both))


def _cells_of_fields(tokenizer: Tokenizer, ids_L: np.ndarray, record: Record) -> list[Cell]:
    """Finds what stands between special tokens among a record's texts, whose characters it is."""
    texts = [text for text in record.fields.values() if isinstance(text, str)]
    encoded = [(text, tokenizer.encode_with_offsets(text)) for text in texts]
    found, at = [], 0
    is_text = lambda token_id: not _is_special(tokenizer, token_id)
    for is_run, run in itertools.groupby(ids_L.tolist(), key=is_text):
        ids = list(run)
        found += _cells_of_run(tokenizer, ids, at, encoded if is_run else ())
        at += len(ids)
    return found


def _cells_of_run(
    tokenizer: Tokenizer, ids: list[int], first: int, encoded: Sequence[tuple[str, Offsets]]
) -> list[Cell]:
    for text, offsets in encoded:
        # A text that was cut, or a window, is a part of it.
        whole, size = offsets.ids.tolist(), len(ids)
        for start in range(len(whole) - size + 1):
            if whole[start : start + size] == ids:
                part = Offsets(*(x[start : start + size] for x in offsets))
                begins = int(part.starts[0])
                part = part._replace(starts=part.starts - begins, ends=part.ends - begins)
                return cells.of_text(text[begins:], part, first)
    return cells.of_ids(tokenizer, ids, first)


def _is_special(tokenizer: Tokenizer, token_id: int) -> bool:
    """Tells what stands for no text; what a tokenizer does not know is text."""
    return tokenizer.is_special(token_id) and token_id != tokenizer.unk_id
