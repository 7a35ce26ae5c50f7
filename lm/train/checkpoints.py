"""Checkpoints: written by Orbax in the background, proved complete by a manifest of checksums.

    checkpoints/<step>/state/          Orbax
    checkpoints/<step>/host.json       what the host keeps besides: counters, this step's metrics
    checkpoints/<step>/manifest.json   size and SHA-256 of every file above; written last

Orbax restores a flipped byte without a word. So a step counts only when its manifest is there and
agrees with its files; any other is named, set aside, and the one before it is used.
"""

import contextlib
import errno
import hashlib
import inspect
import json
import math
import os
import pathlib
import shutil
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lm.errors import UserError
from lm.train import hosts
from lm.train.best import ranked
from lm.workdir import existing_part

_DATA_FILE_BYTES = 2**26  # What is not yet written of a file is held in memory.
_STATE, _HOST, _MANIFEST, _DAMAGED = "state", "host.json", "manifest.json", "damaged"


class Checkpoints:
    """Saves and restores the steps of one run; a context manager that waits for the last save.

    Args:
      folder: made when the first step is saved.
      keep_last: how many of the newest steps to keep; at least 1.
      keep_every: also keeps each multiple of this many steps; 0 keeps none for that.
      best_metric: also keeps the step where this metric was best, such as "eval/loss"; "" keeps
        none for that.
      best_mode: "min" where less of it is better, "max" where more is.

    Raises:
      UserError: a number that makes no sense.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        keep_last: int,
        keep_every: int = 0,
        best_metric: str = "",
        best_mode: str = "min",
    ):
        if keep_last < 1:
            raise UserError(f"checkpoint.keep_last={keep_last} must be at least 1")
        self._folder = folder.absolute()
        self._keep_last, self._keep_every = keep_last, keep_every
        self._best_metric, self._best_mode = best_metric, best_mode
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._finisher: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            with contextlib.suppress(OSError):  # It says again what `wait` has raised.
                self._orbax.close()

    def steps(self) -> list[int]:
        """The complete steps, oldest first; a step without a manifest is not one."""
        return [
            s for s in _step_folders(self._folder) if (_path(self._folder, s) / _MANIFEST).exists()
        ]

    def save(self, step: int, state: Any, host: dict[str, Any], metrics: dict[str, float]) -> None:
        """Copies the state and returns; the files are written while training goes on.

        Waits for the save before it. The state may be donated as soon as this returns.

        Raises:
          UserError: this save or the one before it failed; the older checkpoints are untouched.
        """
        self.wait()
        path = _path(self._folder, step)
        with hosts.together():
            _check_room_to_save(self._folder, step, state)
            if hosts.is_first():  # What a killed process may have left half done.
                shutil.rmtree(path, ignore_errors=True)
        if jax.default_backend() == "cpu":
            # There the host's view of an array is the array: the next step would overwrite it.
            # NumPy's arrays no step overwrites.
            state = jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, state)
        try:
            self._orbax.save(
                path / _STATE,
                args=ocp.args.PyTreeSave(state, ocdbt_target_data_file_size=_DATA_FILE_BYTES),
            )
        except OSError as error:
            raise _save_error(step, error) from error
        self._finisher = threading.Thread(
            target=self._finish, args=(step, {"host": host, "metrics": metrics}), daemon=True
        )
        self._finisher.start()

    def _finish(self, step: int, host: dict[str, Any]) -> None:
        """In the background: completes a step, and only then deletes older ones."""
        try:
            self._orbax.wait_until_finished()  # In the first process, for all of them.
            if not hosts.is_first():
                return
            path = _path(self._folder, step)
            _write_durably(path / _HOST, json.dumps(host))
            _write_durably(path / _MANIFEST, json.dumps(_checksums(path), indent=1))
            self._delete_old()
        except Exception as error:  # Raised where the run can act on it, in `wait`.
            self._error = _save_error(step, error)

    def wait(self) -> None:
        """Returns when nothing is being saved any more.

        Raises:
          UserError: the save failed.
        """
        if self._finisher is None:
            return
        self._finisher.join()
        self._finisher = None
        with hosts.together():
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def restore(
        self, abstract_state: Any, *, best: bool = False
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest step whose files are as they were written; None where there never was one.

        Args:
          abstract_state: shapes, dtypes and shardings to restore to, which need not be those of the
            run that saved.
          best: the best one by `best_metric` instead of the newest.

        Returns:
          The step, the state, and the `host` dict that was saved with it.

        Raises:
          UserError: no step is intact, or what was saved has another shape, dtype or structure.
        """
        path = _agreed(self._folder, *((self._best_metric, self._best_mode) if best else ()))
        if path is None:
            return None
        _check_alike(path, self._orbax.metadata(path / _STATE).item_metadata.tree, abstract_state)
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract_state)
        state = self._orbax.restore(
            path / _STATE,
            args=ocp.args.PyTreeRestore(item=abstract_state, restore_args=restore_args),
        )
        return int(path.name), state, json.loads((path / _HOST).read_text())["host"]

    def _delete_old(self) -> None:
        steps = self.steps()
        keep = set(steps[-self._keep_last :])
        if self._keep_every:
            keep |= {step for step in steps if step % self._keep_every == 0}
        if self._best_metric:
            keep.add(_best_first(self._folder, steps, self._best_metric, self._best_mode)[0])
        for step in set(steps) - keep:
            # The manifest first: a deletion that is cut short leaves nothing that looks complete.
            (_path(self._folder, step) / _MANIFEST).unlink()
            shutil.rmtree(_path(self._folder, step))

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that a step was saved with."""
        return _metrics(self._folder, step)


def write_numpy_as_it_is() -> None:
    """Has Orbax save arrays of NumPy without copying them, where it can be told to (0.12.4 cannot).

    They must not change before they are written. Importing a model then takes hardly more memory
    than it does (benchmarks/import_memory.py), and twice as much otherwise.
    """
    handler = ocp.type_handlers.NumpyHandler
    if "deepcopy_host_arrays" in inspect.signature(handler).parameters:
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # It warns that there was another handler.
        no_copies = handler(deepcopy_host_arrays=False)
        ocp.type_handlers.register_type_handler(np.ndarray, no_copies, override=True)
        logging.set_verbosity(verbosity)


def restore_params(
    folder: pathlib.Path, *, best_metric: str = "", best_mode: str = "min"
) -> tuple[int, Any, dict[str, Any]]:
    """The newest intact step, or the best one by a metric; its parameters; its host data.

    The parameters are arrays of NumPy, which are whole in each process and on no device yet;
    averaged ones where the step has them.

    Raises:
      UserError: there is no intact step.
    """
    path = _agreed(folder.absolute(), best_metric, best_mode)
    if path is None:
        raise UserError(f"{folder} holds no checkpoint; train longer, or name another run")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(path / _STATE).item_metadata.tree
        where = _average_path(saved["opt_state"], ("opt_state",)) or ("params",)
        wanted = lambda keys: (
            tuple(getattr(k, "key", getattr(k, "idx", None)) for k in keys)[: len(where)] == where
        )
        item = jax.tree_util.tree_map_with_path(
            lambda keys, x: x if wanted(keys) else ocp.PLACEHOLDER, saved
        )
        restore_args = jax.tree.map(
            lambda x: x if x is ocp.PLACEHOLDER else ocp.RestoreArgs(restore_type=np.ndarray), item
        )
        restored = checkpointer.restore(
            path / _STATE, args=ocp.args.PyTreeRestore(item=item, restore_args=restore_args)
        )
    for key in where:
        restored = restored[key]
    return int(path.name), restored, json.loads((path / _HOST).read_text())["host"]


def bytes_needed(abstract_state: Any, *, keep_last: int) -> int:
    """What a run's checkpoints take on disk at most, the one being written included."""
    leaves = jax.tree.leaves(abstract_state)
    return (keep_last + 1) * sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def check_disk_room(folder: pathlib.Path, num_bytes: int) -> None:
    """Raises UserError if the disk that `folder` will lie on has less room than this."""
    free = shutil.disk_usage(existing_part(folder)).free
    if free < num_bytes:
        raise UserError(
            f"--workdir={folder}: its disk has {free / 1e9:.2f} GB free and the checkpoints need "
            f"{num_bytes / 1e9:.2f} GB; free some, or lower checkpoint.keep_last"
        )


def _check_room_to_save(folder: pathlib.Path, step: int, state: Any) -> None:
    """The disk may have filled up since the start; asking beforehand spares a half-written step."""
    needed = sum(x.nbytes for x in jax.tree.leaves(state))
    free = shutil.disk_usage(existing_part(folder)).free
    if free < needed:
        raise _disk_full(step, f"{free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB needed")


def _disk_full(step: int, reason: str) -> UserError:
    return UserError(
        f"the disk is full: checkpoint {step} could not be saved ({reason}); those before it are "
        "intact. Free some space and run the same command again"
    )


def _agreed(
    folder: pathlib.Path, best_metric: str = "", best_mode: str = "min"
) -> pathlib.Path | None:
    """`_intact`, which the first process finds for all."""
    name = ""
    with hosts.together():
        if hosts.is_first():
            path = _intact(folder, best_metric, best_mode)
            name = "" if path is None else path.name
    name = hosts.from_first(name)
    return folder / name if name else None


def _intact(
    folder: pathlib.Path, best_metric: str = "", best_mode: str = "min"
) -> pathlib.Path | None:
    """The newest step that its manifest proves, or the best; sets damaged ones aside on the way."""
    steps = _step_folders(folder)
    first = _best_first(folder, steps, best_metric, best_mode) if best_metric else steps[::-1]
    for step in first:
        path = _path(folder, step)
        problem = _problem(path)
        if problem is None:
            return path
        aside = folder / _DAMAGED / f"{step}-{len(list(folder.glob(f'{_DAMAGED}/{step}-*')))}"
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
        logging.warning("checkpoint %s is damaged (%s); set aside as %s", path, problem, aside)
    if steps and any((folder / _DAMAGED).glob(f"*/{_MANIFEST}")):
        raise UserError(
            f"{folder}: no checkpoint is intact, all are in {folder / _DAMAGED}; restore one "
            "from a backup, or start in another workdir"
        )
    return None


def _best_first(folder: pathlib.Path, steps: list[int], metric: str, mode: str) -> list[int]:
    return ranked([(s, _metrics(folder, s).get(metric, math.nan)) for s in steps], mode)


def _metrics(folder: pathlib.Path, step: int) -> dict[str, float]:
    """What a step was saved with; nothing where it was not saved to its end."""
    path = _path(folder, step) / _HOST
    try:
        return json.loads(path.read_text())["metrics"]
    except (OSError, ValueError):
        return {}


def _average_path(tree: Any, path: tuple) -> tuple | None:
    """Where an optimiser's saved state keeps `AverageState.average`, if it does."""
    if not isinstance(tree, dict | list | tuple):
        return None
    if "average" in tree:
        return (*path, "average")
    children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = (_average_path(child, (*path, key)) for key, child in children)
    return next((p for p in found if p is not None), None)


def _problem(path: pathlib.Path) -> str | None:
    """What is wrong with a step's files, or None."""
    if not (path / _MANIFEST).exists():
        return "it has no manifest: the process ended while it was being written"
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except ValueError:
        return f"{_MANIFEST} cannot be read"
    for name, (size, checksum) in manifest.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _sha256(file) != checksum:
            return f"{name} has changed since it was written"
    return None


def _check_alike(path: pathlib.Path, saved: Any, wanted: Any) -> None:
    """Raises UserError at the first array that was saved otherwise; Orbax would cast it."""
    as_dict = lambda tree: {
        jax.tree_util.keystr(keys, simple=True, separator="."): (tuple(x.shape), str(x.dtype))
        for keys, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    saved, wanted = as_dict(saved), as_dict(wanted)
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"{path}: {name} was saved as {saved.get(name)} and this config needs "
                f"{wanted.get(name)}; use the config that made it, or another workdir"
            )


def _checksums(path: pathlib.Path) -> dict[str, tuple[int, str]]:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != _MANIFEST)
    return {str(p.relative_to(path)): (p.stat().st_size, _sha256(p)) for p in files}


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: pathlib.Path, text: str) -> None:
    """Either the whole file is there afterwards, also after a power cut, or none of it."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _save_error(step: int, error: Exception) -> Exception:
    text = " ".join(str(error).split())
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text
    if full or "RESOURCE_EXHAUSTED" in text:
        return _disk_full(step, text[:200])
    return error


def _step_folders(folder: pathlib.Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _path(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / str(step)
