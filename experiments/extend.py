"""Gives a model more tokens: a longer tokenizer, and tables with a row for each new piece."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict

from experiments import convert
from experiments.cli import command
from lm.chat import template_files
from lm.corpus import named_texts
from lm.errors import UserError
from lm.interop import hugging_face
from lm.loading import language_model, task_model
from lm.models import new_rows
from lm.models.factory import make_model
from lm.models.families import init_params
from lm.models.parameters import TABLES
from lm.settings import choose
from lm.system import faults, manifest
from lm.tokenizers import extension, token_vectors
from lm.tokenizers.tokenizers import Tokenizer

INITS = ("mean_of_pieces", "mean", "focus", "random")
_SHOWN = 20  # Of the new pieces.


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Writes the run `target`: `source` with `num_pieces` more tokens; `workdir` is not used."""
    del workdir
    source, target = convert.folders(config.source, config.target)
    choose("init", config.init, INITS)
    texts = _texts(config.text)
    model, more = _read(source)
    old = model.tokenizer
    before = _fertility(old, texts())
    is_enough = _is_enough(config.target_fertility, before, texts)
    with _naming(source):
        longer = extension.extend(old, texts(), config.num_pieces, is_enough)
    num_new, size = len(longer.old_ids), _size(model, longer, config.multiple_of)
    rows = _rows(config.init, config.seed, model, longer, texts(), size)
    params = new_rows.grow(model.params, rows, old.vocab_size, num_new, size)
    model = model._replace(
        params=params, block=model.block | {"vocab_size": size}, tokenizer=longer.tokenizer
    )
    with convert.unfinished(target) as partial, faults.naming(target):
        made_by = dict(source=str(source), num_old_tokens=old.vocab_size, init=config.init, **more)
        convert.write_run(partial, model, **made_by)
        template_files.copy(source, partial / "tokenizer")
        manifest.write(partial / "tokenizer")
    after = _fertility(longer.tokenizer, texts())
    _report(target, old, longer.tokenizer, before, after)
    if is_enough and after > config.target_fertility:
        asked = f"target_fertility={config.target_fertility}"
        print(f"{asked} is not reached; raise num_pieces={config.num_pieces}, or give more text")
    return 0


def _texts(globs: str):
    """Returns what starts to read the texts, as often as it is called."""
    source = named_texts.training_texts(globs, "text")
    return lambda: named_texts.all_texts(source)


def _read(source: pathlib.Path) -> tuple[convert.Model, dict[str, Any]]:
    """Returns the model of a run or a folder, and what else of its config is to be kept."""
    if hugging_face.is_folder(source):
        return convert.read_folder(source, False, False), {}
    if task_model.is_task_model(source):
        raise UserError(
            f"source={source} is fine-tuned; extend what it began from, and fine-tune that"
        )
    found = language_model.load(source)
    config = found.config
    model = convert.Model(
        config["model"],
        jax.tree.map(np.asarray, found.params),
        config.get("weights_dtype", "float32"),
        found.tokenizer,
    )
    return model, {key: config[key] for key in ("objective",) if key in config}


def _fertility(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Computes tokens a character."""
    num_tokens = num_chars = 0
    for text in texts:
        num_tokens += len(tokenizer.encode_batch([text])[0])
        num_chars += len(text)
    return num_tokens / max(num_chars, 1)


def _is_enough(target: float, before: float, texts) -> Callable[[Tokenizer], bool] | None:
    """Makes what says whether a tokenizer needs no more pieces; None where they are counted."""
    if not target:
        return None
    if before <= target:
        raise UserError(
            f"target_fertility={target}: the text has {before:.3f} tokens a character already; "
            "give less, or 0 for num_pieces"
        )
    return lambda longer: _fertility(longer, texts()) <= target


@contextlib.contextmanager
def _naming(source: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"source={source}: {error}") from None


def _size(model: convert.Model, longer: extension.Extension, multiple_of: int) -> int:
    """Counts the rows of the new tables."""
    size = max(model.block["vocab_size"], longer.tokenizer.vocab_size)
    return -(-size // multiple_of) * multiple_of


def _rows(
    init: str,
    seed: int,
    model: convert.Model,
    longer: extension.Extension,
    texts: Iterable[str],
    size: int,
) -> new_rows.Rows:
    num_old, num_new = model.tokenizer.vocab_size, len(longer.old_ids)
    pieces = new_rows.mean_of_pieces(longer.old_ids, num_old)
    match init:
        case "mean_of_pieces":
            rows = new_rows.combining(pieces)
        case "mean":
            rows = new_rows.mean(num_new)
        case "focus":
            ids = (longer.tokenizer.encode_batch([text])[0] for text in texts)
            vectors = token_vectors.by_neighbours(ids, num_old + num_new)
            num_known = np.count_nonzero(np.any(vectors[num_old:], axis=1))
            print(f"focus: {num_new - num_known} of {num_new} new tokens are too rare in the text")
            rows = new_rows.combining(new_rows.focus(vectors, num_old, pieces))
        case "random":
            rows = _drawn(model.block | {"vocab_size": size}, seed, num_old, num_new)
    # In the precision of the files that the model came from, so that an export rounds nothing.
    dtype = jnp.dtype(model.dtype)
    return lambda path, old: np.asarray(rows(path, old)).astype(dtype).astype(np.float32)


def _drawn(block: dict[str, Any], seed: int, num_old: int, num_new: int) -> new_rows.Rows:
    """Makes rows as a new model has them."""
    model = make_model(block, causal=True)

    @jax.jit
    def draw(key):
        flat = flatten_dict(init_params(model, key))
        return {"/".join(path): x for path, x in flat.items() if path[-1] in TABLES}

    drawn = draw(jax.random.key(seed))
    return lambda path, old: drawn["/".join(path)][num_old : num_old + num_new]


def _report(
    target: pathlib.Path, old: Tokenizer, new: Tokenizer, before: float, after: float
) -> None:
    """Prints what the new pieces are, what they save, and how to go on."""
    ids = range(old.vocab_size, new.vocab_size)
    print(f"{target}: {old.vocab_size:,} tokens + {len(ids):,} new ones")
    print(f"tokens a character of the text: {before:.3f} before, {after:.3f} now")
    shown = " ".join(map(new.piece, ids[:_SHOWN]))
    print(f"new: {shown}{' ...' if len(ids) > _SHOWN else ''}")
    parts = ("--config=configs/adapt.py", f"--config.init_from={target}")
    print(f"train it: {command(*parts)}; the new rows first: --config.train.only=new_rows")
