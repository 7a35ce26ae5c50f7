"""Looks into any checkpoint while it reads texts: a page, numbers as JSON, and arrays."""

import json
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments.wiring import look_inputs, looks
from experiments.wiring.number_ranges import folder_of
from lm.errors import UserError
from lm.interpret import capture, page
from lm.interpret import subject as subject_lib
from lm.interpret.subject import Subject, Text
from lm.settings import choose
from lm.system import atomic_files

_FILES = ("interpret.html", "interpret.json", "interpret.npz")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Writes interpret.html, interpret.json and interpret.npz into `workdir`, once all is computed.

    `what=sites` prints a table, and writes nothing.

    Raises:
      UserError: for what cannot work, before anything is written.
    """
    given = config.to_dict()
    choose("what", config.what, ("sites", *looks.LOOKS))
    folder = folder_of(config.checkpoint)
    needs_none = config.what in ("sites", "induction")
    if bool(config.texts) == bool(config.texts_file) and not needs_none:
        raise UserError(
            "give either texts or texts_file: --config.texts=\"('The cat sat.',)\" or "
            "--config.texts_file=FILE"
        )
    subject = subject_lib.open_subject(folder)
    if subject.note:
        print(subject.note)
    texts = look_inputs.read_texts(subject, given)
    if config.what == "sites":
        return _print_sites(subject, texts[0])
    found = looks.LOOKS[config.what](subject, texts, given)
    title = f"{config.what} of {folder}"
    lines = [f"{folder} at step {subject.step:,}: {subject.kind}"]
    sections = [page.section(one.name, one.blocks) for one in found]
    made = page.page(title, lines, sections)
    values = {
        "what": config.what,
        "checkpoint": str(folder),
        "step": subject.step,
        "texts": [_tokens(subject, text) for text in texts],
        "found": [{"name": one.name} | one.values for one in found],
    }
    arrays = {
        f"{i}/{name}": array for i, one in enumerate(found) for name, array in one.arrays.items()
    }
    _write(workdir, made, values, arrays)
    return 0


def _print_sites(subject: Subject, text: Text) -> int:
    found = subject_lib.sites(subject, text.inputs)
    width = max(map(len, found))
    for name, shape in found.items():
        num_bytes = look_inputs.size(capture.num_bytes([shape]))
        print(f"{name:<{width}}  {_shape(shape):<24} {num_bytes:>10}")
    total = look_inputs.size(capture.num_bytes(found.values()))
    print(f"{len(found)} sites of {subject.folder}; one text of this length is {total} in all")
    return 0


def _shape(shape: jax.ShapeDtypeStruct) -> str:
    return f"{' x '.join(map(str, shape.shape))} {shape.dtype}"


def _tokens(subject: Subject, text: Text) -> dict[str, Any]:
    piece = subject.run.tokenizer.piece
    sides = {
        name.rstrip("/") or "tokens": [
            {"id": int(token_id), "piece": piece(int(token_id))} for token_id in side.ids_L
        ]
        for name, side in text.sides.items()
    }
    return {"name": text.name} | sides


def _write(
    workdir: pathlib.Path, made: str, values: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    contents = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    workdir.mkdir(parents=True, exist_ok=True)
    atomic_files.write(workdir / _FILES[0], made)
    atomic_files.write(workdir / _FILES[1], contents)
    with atomic_files.replacing(workdir / _FILES[2]) as part, part.open("wb") as file:
        # NumPy would read 16-bit floats of JAX back as bytes.
        as_known = lambda x: x.astype(np.float32) if x.dtype.kind == "V" else x
        np.savez_compressed(file, **{name: as_known(array) for name, array in arrays.items()})
    print(f"written to {workdir}: {', '.join(_FILES)}")
