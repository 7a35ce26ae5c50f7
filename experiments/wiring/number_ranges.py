"""Checks a config's numbers, the run that it names, and its output, before any of them is used."""

import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.formats import files
from lm.run import workdir as workdir_lib

_Rule = tuple[Callable[[float], bool], str]
_POSITIVE: _Rule = (lambda x: 1 <= x < math.inf, "be at least 1")
_ABOVE_ZERO: _Rule = (lambda x: 0 < x < math.inf, "be a number above 0")
_NOT_NEGATIVE: _Rule = (lambda x: 0 <= x < math.inf, "be a number of at least 0")
_SHARE: _Rule = (lambda x: 0 <= x < 1, "lie in [0, 1)")
_SHARE_OF_ALL: _Rule = (lambda x: 0 <= x <= 1, "lie in [0, 1]")
_ANY: _Rule = (math.isfinite, "be a finite number")
_BYTES: _Rule = (lambda x: 1 <= x < 2**63, "lie in [1, 2^63)")

# `model`, `parallel`, `data.sources` and `inputs` are not here: the families' dataclasses,
# `make_mesh`, `source_weights` and `make_input` check theirs.
_RULES = {
    "seed": (lambda x: 0 <= x < 2**32, "lie in [0, 2^32)"),
    "num_seeds": _POSITIVE,
    "batch_size": _POSITIVE,
    "vocab_size": _NOT_NEGATIVE,
    "num_pieces": _POSITIVE,
    "target_fertility": _NOT_NEGATIVE,
    "multiple_of": _POSITIVE,
    "limit": _NOT_NEGATIVE,
    "max_len": _NOT_NEGATIVE,
    "num_fewshot": (lambda x: -1 <= x < math.inf, "be at least 0, or -1 for what each task says"),
    "temperature": (lambda x: 0 <= x < math.inf, "be a number of at least 0; 0 is greedy"),
    "top_k": (lambda x: 0 <= x < math.inf, "be at least 0; 0 draws among all tokens"),
    "top_p": (lambda x: 0 < x <= 1, "lie in (0, 1]; 1 draws among all tokens"),
    "min_p": (lambda x: 0 <= x <= 1, "lie in [0, 1]; 0 draws among all tokens"),
    "repetition_penalty": (lambda x: 1e-6 <= x <= 1e6, "lie in [1e-6, 1e6]; 1 is none"),
    "max_new_tokens": _POSITIVE,
    # All are held until the last is written.
    "num_samples": (lambda x: 1 <= x <= 10_000, "lie in [1, 10000]; another seed writes others"),
    "num_beams": _POSITIVE,
    "target_answer": (lambda x: -1 <= x <= 2, "be 0, 1 or 2, or -1 for what each record says"),
    "port": (lambda x: 0 <= x < 2**16, "lie in [0, 65535]; 0 takes one that is free"),
    "num_slots": (lambda x: 1 <= x <= 4096, "lie in [1, 4096]"),
    "cache_len": _NOT_NEGATIVE,
    "max_waiting": _POSITIVE,
    "prefix_bytes": (lambda x: 0 <= x < 2**63, "lie in [0, 2^63)"),
    "max_body_bytes": _BYTES,
    "max_document_bytes": _BYTES,
    "max_connections": _POSITIVE,
    "drain_seconds": _NOT_NEGATIVE,
    "length_penalty": _ANY,
    "layers": _NOT_NEGATIVE,
    "num_steps": _NOT_NEGATIVE,
    "peak_lr": _ABOVE_ZERO,
    "num_nodes": (lambda x: 1 <= x <= 10_000, "lie in [1, 10000]"),
    "chunk_size": _POSITIVE,
    "inverse_l2": _ABOVE_ZERO,
    "num_shown": _POSITIVE,
    "num_sequences": _POSITIVE,
    "sequence_len": (lambda x: x >= 2, "be 2 or more"),
    "heads": _NOT_NEGATIVE,
    "coordinates.widths": _POSITIVE,
    "coordinates.probe_rows": _POSITIVE,
    "coordinates.bound": _ABOVE_ZERO,
    "tokenizer.vocab_size": _POSITIVE,
    "tokenizer.character_coverage": (lambda x: 0 < x <= 1, "lie in (0, 1]"),
    "tokenizer.num_sentinels": _NOT_NEGATIVE,
    "extract.max_seconds": _ABOVE_ZERO,
    "extract.max_memory_bytes": (lambda x: 2**28 <= x < 2**63, "lie in [2^28, 2^63)"),
    "quality.max_drop": _SHARE,
    "duplicates.ngram": _POSITIVE,
    "duplicates.num_bands": _POSITIVE,
    "duplicates.band_rows": _POSITIVE,
    "duplicates.threshold": (lambda x: 0 < x <= 1, "lie in (0, 1]"),
    "duplicates.max_compared": _POSITIVE,
    "decontaminate.words": _POSITIVE,
    "decontaminate.characters": _POSITIVE,
    "decontaminate.min_units": _POSITIVE,
    "decontaminate.coverage": (lambda x: 0 < x <= 1, "lie in (0, 1]"),
    "decontaminate.max_documents": _NOT_NEGATIVE,
    "decontaminate.max_share": (lambda x: 0 < x <= 1, "lie in (0, 1]"),
    "output.validation_share": (lambda x: 0 < x < 1, "lie in (0, 1)"),
    "engine.num_shards": (lambda x: 1 <= x <= 100_000, "lie in [1, 100000]"),  # Files, at a time.
    "engine.sort_bytes": _BYTES,
    "engine.num_workers": _NOT_NEGATIVE,
    "lora.rank": _NOT_NEGATIVE,
    "lora.alpha": _ABOVE_ZERO,
    "task.stride": _POSITIVE,
    "task.max_answer_len": _POSITIVE,
    "task.target_len": _POSITIVE,
    "task.label_smoothing": _SHARE,
    "task.num_beams": _POSITIVE,
    "task.length_penalty": _ANY,
    "train.num_steps": _NOT_NEGATIVE,
    "train.num_epochs": _NOT_NEGATIVE,
    "train.accumulate_steps": _POSITIVE,
    "train.max_skipped": _POSITIVE,
    "train.patience": _NOT_NEGATIVE,
    "log.every_steps": _POSITIVE,
    "eval.every_steps": _NOT_NEGATIVE,
    "eval.batch_size": _POSITIVE,
    "eval.sample_tokens": _NOT_NEGATIVE,
    "checkpoint.every_steps": _NOT_NEGATIVE,
    "checkpoint.keep_last": _POSITIVE,
    "checkpoint.keep_every": _NOT_NEGATIVE,
    "data.batch_size": _NOT_NEGATIVE,
    "data.batch_size_per_device": _NOT_NEGATIVE,
    "data.mixture.temperature": _NOT_NEGATIVE,
    "data.multiple": _POSITIVE,
    "data.seq_len": _POSITIVE,
    "data.num_examples": _NOT_NEGATIVE,
    "data.max_document_bytes": _BYTES,
    "data.validation_share": (lambda x: 0 < x < 1, "lie in (0, 1)"),
    "objective.rate": (lambda x: 0 < x < 1, "lie in (0, 1)"),
    "objective.mask_share": _SHARE_OF_ALL,
    "objective.random_share": _SHARE_OF_ALL,
    "objective.noise_density": (lambda x: 0 < x < 1, "lie in (0, 1)"),
    "objective.suffix_share": (lambda x: 0 < x < 1, "lie in (0, 1)"),
    "objective.mean_span_length": _POSITIVE,
    "loss.z_loss": _NOT_NEGATIVE,
    "loss.label_smoothing": _SHARE,
    "loss.num_blocks": _POSITIVE,
    "optimizer.peak_lr": _NOT_NEGATIVE,
    "optimizer.warmup_steps": _NOT_NEGATIVE,
    "optimizer.warmup_share": _SHARE,
    "optimizer.final_lr_ratio": _NOT_NEGATIVE,
    "optimizer.decay_ratio": _SHARE_OF_ALL,
    "optimizer.layer_decay": (lambda x: 0 < x <= 1, "lie in (0, 1]"),
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.eps": _NOT_NEGATIVE,
    "optimizer.ema_decay": _SHARE,
    "optimizer.beta": _SHARE,
    "optimizer.momentum": _SHARE,
    "optimizer.b1": _SHARE,
    "optimizer.b2": _SHARE,
}
_BEYOND_32_BITS = {
    "seed",
    "prefix_bytes",
    "max_body_bytes",
    "max_document_bytes",
    "data.max_document_bytes",
    "extract.max_memory_bytes",
    "engine.sort_bytes",
}
_NESTED = {"data.mixture.stages"}  # Checked where it is read.
# Lists of whole numbers, whose parts no flag checks.
_WHOLE = {"coordinates.widths", "layers", "heads"}


def check_numbers(values: Mapping[str, Any]) -> None:
    """Checks the numbers and lists of any experiment's config, given as a dict.

    Raises:
      UserError: at the first number that is out of its range, NaN, infinite or beyond 32 bits, and
        at a list that names something twice, or other things than texts or numbers.
    """
    for key, value in workdir_lib.flat(values).items():
        if key in _NESTED:
            continue
        # A list of numbers is checked by the rule of its key, one by one.
        parts = value if isinstance(value, tuple | list) else (value,)
        if len({repr(part) for part in parts}) < len(parts):  # By repr: 1 and True are equal.
            twice = next(part for part in parts if list(parts).count(part) > 1)
            raise UserError(f"{key} names {twice!r} twice; leave one of them out")
        is_list = isinstance(value, tuple | list) and key not in _WHOLE
        if is_list and not all(isinstance(part, str) for part in parts):
            raise UserError(f"{key}={value!r} must hold texts, such as ('1', 'END')")
        for part in parts:
            _check_number(key, value, part)


def _check_number(key: str, value: Any, number: Any) -> None:
    if not isinstance(number, int | float) or isinstance(number, bool):  # A bool is an int.
        return
    # Steps, sizes and ids are counted in 32 bits, and floats computed in them, on devices too.
    most = 2**31 - 1 if isinstance(number, int) else float(np.finfo(np.float32).max)
    if key not in _BEYOND_32_BITS and most < abs(number) < math.inf:
        raise UserError(f"{key}={value} is too large; at most {most:.10g} is possible")
    holds, words = _RULES.get(key, _ANY)
    if not holds(number):
        raise UserError(f"{key}={value} must {words}")
    if key in _WHOLE and not isinstance(number, int):
        raise UserError(f"{key}={value} must be whole numbers")


def folder_of(checkpoint: str) -> pathlib.Path:
    """Returns the folder that `checkpoint` names; raises UserError where it is not set."""
    if not checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    return pathlib.Path(checkpoint)


def check_output(name: str, source: str, checkpoint: str, key: str = "output") -> None:
    """Checks that the file `name` of a `key`, if any, can be written while `source` is read.

    Raises:
      UserError: it is a folder, would lie in none that can be written to, is what is read, or is a
        file that the folder `checkpoint` holds already.
    """
    if name == "-":
        remedy = "leave output out to write to standard output" if key == "output" else "name one"
        raise UserError(f"{key}=- names no file; {remedy}")
    place = pathlib.Path(os.path.realpath(name))  # Behind links, which may lead elsewhere.
    if name and place.is_dir():
        raise UserError(f"{key}={name} is a folder; name a file")
    if not name or (place.exists() and not place.is_file()):
        return  # A pipe, or /dev/null.
    if place.exists():
        # Standard input, 0, may be a file.
        read = 0 if pathlib.Path(source) == files.STDIN else source
        if os.path.exists(read) and os.path.samefile(place, read):
            raise UserError(f"{key}={name} is what is read; name another file")
        # It may be a file of the model, or what the run wrote.
        if place.is_relative_to(os.path.realpath(checkpoint)):
            raise UserError(
                f"{key}={name} is in checkpoint={checkpoint} already; name another file"
            )
    if not place.parent.is_dir():
        raise UserError(f"{key}={name}: {place.parent} is no folder; make it first")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"{key}={name}: {place.parent} may not be written to; name a file elsewhere"
        )


def check_positions(seq_len: int, model_config: Any) -> None:
    """Raises UserError where rows are longer than a model that has positions has of them."""
    if model_config.max_len is not None and seq_len > model_config.max_len:
        raise UserError(
            f"data.seq_len={seq_len} exceeds the model's positions, "
            f"model.max_len={model_config.max_len}; lower the one or raise the other"
        )
