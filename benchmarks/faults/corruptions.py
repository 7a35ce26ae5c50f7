"""Files that change on the disk: are they noticed, and is nothing wrong used in silence?"""

import collections
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.faults.commands import Place
from lm.errors import UserError

_KINDS = ("flipped", "cut", "emptied", "removed", "zeros", "a folder")


def damage(path: pathlib.Path, kind: str, rng: random.Random) -> None:
    """Does one of `_KINDS` to a file."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(max(len(data), 1))
    if kind == "flipped" and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "zeros" and data:
        data[at : at + 4096] = bytes(min(4096, len(data) - at))
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "removed":
        path.write_bytes({"cut": data[:at], "emptied": b""}.get(kind, data))


def rows(
    place: Place, run: pathlib.Path, exported: pathlib.Path, num: int, rng: random.Random
) -> Iterator[tuple[str, dict[str, int]]]:
    """For each target: its name, and how many corruptions had which outcome."""
    of = {"checkpoints": round(0.4 * num), "prepared": round(0.35 * num)}
    rest = num - sum(of.values())
    yield "newest checkpoint of several", dict(_of_checkpoints(run, of["checkpoints"], rng))
    yield "prepared data, all rows read", dict(_of_prepared(place, of["prepared"], rng))
    yield "folder of transformers, imported", dict(_of_exported(exported, rest, rng))


def _of_checkpoints(run: pathlib.Path, num: int, rng: random.Random) -> collections.Counter:
    from lm.train.checkpoints import Checkpoints, restore_params

    folder = run / "checkpoints"
    with Checkpoints(folder, keep_last=1) as checkpoints:
        *_, before, newest = checkpoints.steps()
    older = run.parent / "older"
    shutil.copytree(folder, older)
    shutil.rmtree(older / str(newest))
    wanted = before, restore_params(older)[1]
    unchanged = restore_params(folder)[1]

    def outcome(copy: pathlib.Path) -> str:
        step, params, _ = restore_params(copy)
        if step == before and _equal(params, wanted[1]):
            return "noticed, the older one used"
        same = step == newest and _equal(params, unchanged)
        return "not noticed, parameters right" if same else "WRONG PARAMETERS IN SILENCE"

    return _count(folder, num, rng, outcome, lambda path: f"/{newest}/" in str(path))


def _of_prepared(place: Place, num: int, rng: random.Random) -> collections.Counter:
    from lm.corpus.packed_rows import RowReader
    from lm.corpus.preparation import SPLITS, _open

    (folder,) = (path for path in (place.folder / "cache" / "data").iterdir() if path.is_dir())

    def read(copy: pathlib.Path) -> list[bytes]:
        prepared = _open(copy)
        readers = [RowReader(copy, split, prepared.tokenizer.vocab_size) for split in SPLITS]
        return [row for reader in readers for row in reader.records(range(len(reader)))]

    wanted = read(folder)
    outcome = lambda copy: (
        "not noticed, every row right" if read(copy) == wanted else "WRONG ROWS IN SILENCE"
    )
    return _count(folder, num, rng, outcome, lambda path: True)


def _of_exported(exported: pathlib.Path, num: int, rng: random.Random) -> collections.Counter:
    import numpy as np
    from flax.traverse_util import flatten_dict

    from experiments import convert
    from lm.interop import hugging_face

    def read(folder: pathlib.Path) -> Any:
        if not hugging_face.is_folder(folder):
            raise UserError(f"{folder} is no folder of transformers")
        return convert.read_folder(folder, allow_missing=False, allow_unknown=False)

    wanted = read(exported)

    def outcome(copy: pathlib.Path) -> str:
        model = read(copy)
        ours, theirs = flatten_dict(model.params), flatten_dict(wanted.params)
        text = ["some text, 2 ☃\n"]
        tokens = [one.tokenizer.encode_batch(text)[0].tolist() for one in (model, wanted)]
        if model.block != wanted.block:
            return "another config taken: people edit it"
        if tokens[0] != tokens[1]:
            return "another tokenizer taken: people edit it"
        same = all(np.array_equal(ours[key], theirs[key], equal_nan=True) for key in theirs)
        return "not noticed, all right" if same else "WRONG WEIGHTS IN SILENCE"

    return _count(exported, num, rng, outcome, lambda path: True)


def _count(
    folder: pathlib.Path,
    num: int,
    rng: random.Random,
    outcome: Callable[[pathlib.Path], str],
    is_target: Callable[[pathlib.Path], bool],
) -> collections.Counter:
    """Of so many copies, each with one file damaged: how many had which outcome."""
    found: collections.Counter[str] = collections.Counter()
    copy = folder.parent / "damaged" / folder.name
    for i in range(num):
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(folder, copy)
        files = [p for p in sorted(copy.rglob("*")) if p.is_file() and is_target(p)]
        # Half of them in the largest file, which holds most of the bytes.
        largest = max(files, key=lambda path: path.stat().st_size)
        damage(largest if i % 2 else rng.choice(files), _KINDS[i // 2 % len(_KINDS)], rng)
        try:
            found[outcome(copy)] += 1
        except UserError as error:
            is_line = "\n" not in str(error)
            found["noticed, and said in a line" if is_line else "noticed, in many lines"] += 1
        except Exception as error:
            found[f"traceback: {type(error).__name__}"] += 1
    shutil.rmtree(copy.parent, ignore_errors=True)
    return found


def _equal(a: Any, b: Any) -> bool:
    import jax
    import numpy as np

    same = jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)
    return all(jax.tree.leaves(same))
