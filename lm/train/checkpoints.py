"""Checkpoints: written by Orbax in the background, proved complete by a manifest of checksums.

    checkpoints/<step>/state/          Orbax
    checkpoints/<step>/host.json       what the host keeps besides: the step, counters, its metrics
    checkpoints/<step>/manifest.json   size and SHA-256 of every file above; written last

Orbax restores a flipped byte without a word. So a step counts only when its manifest is there and
agrees with its files; any other is named, and the one before it used. The run itself sets a damaged
step aside; whoever else reads leaves it where it is.
"""

import contextlib
import inspect
import itertools
import json
import logging as standard_logging
import math
import pathlib
import re
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lm.errors import UserError
from lm.parallel import hosts
from lm.system import atomic_files, faults, folder_files, manifest
from lm.train import disk_room
from lm.train.early_stopping import ranked

_DATA_FILE_BYTES = 2**26  # What is not yet written of a file is held in memory.
_STATE, _HOST, _MANIFEST, _DAMAGED = "state", "host.json", manifest.NAME, "damaged"
_NEVER_WHOLE = "it has no manifest: the process ended while it was being written, or writes it now"
_READ_ATTEMPTS = 5  # Of others, since a run that goes on deletes its older steps.


class Checkpoints:
    """Saves and restores the steps of one run; a context manager that waits for the last save.

    Args:
      folder: made when the first step is saved.
      keep_last: how many of the newest steps to keep; raises UserError below 1.
      keep_every: also keeps each multiple of this many steps; 0 keeps none for that.
      best_metric: also keeps the step where this metric was best, such as "eval/loss"; "" keeps
        none for that.
      best_mode: "min" where less of it is better, "max" where more is.
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
        _mute_tracebacks()
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._has_failed = False
        self._finisher: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            # After a failure it says again what `wait` has raised.
            with contextlib.suppress(Exception if self._has_failed else ()):
                self._orbax.close()

    def steps(self) -> list[int]:
        """Returns the complete steps, which are those with a manifest, oldest first."""
        steps = _step_folders(self._folder)
        return [step for step in steps if (self._folder / str(step) / _MANIFEST).exists()]

    def save(self, step: int, state: Any, host: dict[str, Any], metrics: dict[str, float]) -> None:
        """Copies the state and returns; the files are written while training goes on.

        Waits for the save before it. The state may be donated as soon as this returns. Raises
        UserError where this save or the one before it failed; older checkpoints are untouched.
        """
        self.wait()
        path = self._folder / str(step)
        with hosts.together():
            disk_room.check_to_save(self._folder, step, state)
            if hosts.is_first():  # What a killed process may have left half done.
                shutil.rmtree(path, ignore_errors=True)
        if jax.default_backend() == "cpu":
            # There Orbax's host copy is the array itself, whose donated buffer the next step would
            # overwrite before it is written. NumPy's arrays no step overwrites.
            state = jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, state)
        try:
            self._orbax.save(
                path / _STATE,
                args=ocp.args.PyTreeSave(state, ocdbt_target_data_file_size=_DATA_FILE_BYTES),
            )
        except Exception as error:
            self._has_failed = True
            raise disk_room.save_error(self._folder, step, error) from error
        # As text, here: the run goes on to change what `host` holds, such as its evaluations.
        kept = json.dumps({"step": step, "host": host, "metrics": metrics})
        # A daemon, so that an interpreter that ends by an error does not wait for the disk.
        self._finisher = threading.Thread(target=self._finish, args=(step, kept), daemon=True)
        self._finisher.start()

    def _finish(self, step: int, kept: str) -> None:
        """Completes a step in the background, and only then deletes older ones."""
        try:
            self._orbax.wait_until_finished()  # In the first process, for all of them.
            if not hosts.is_first():
                return
            path = self._folder / str(step)
            atomic_files.write(path / _HOST, kept)
            manifest.write(path)  # Last: it lists all the others, once the disk has them.
            self._delete_old()  # After that, so that at no time fewer steps are complete.
        except Exception as error:  # Raised where the run can act on it, in `wait`.
            self._has_failed, self._error = True, disk_room.save_error(self._folder, step, error)

    def wait(self) -> None:
        """Returns when nothing is being saved any more; raises UserError where a save failed."""
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
        """Returns the newest intact step, its state and its `host` dict; None if none was saved.

        Args:
          abstract_state: shapes, dtypes and shardings to restore to; these last need not be those
            of the run that saved.
          best: the best one by `best_metric` instead of the newest.

        Raises:
          UserError: no step is intact, or what was saved has another shape, dtype or structure.
        """
        by = (self._best_metric, self._best_mode) if best else ("", "min")
        path = _agreed(self._folder, *by, is_own=True)
        if path is None:
            return None
        # Arrays are read straight into the wanted shardings, whatever mesh wrote them.
        _check_alike(path, self._orbax.metadata(path / _STATE).item_metadata.tree, abstract_state)
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract_state)
        state = self._orbax.restore(
            path / _STATE,
            args=ocp.args.PyTreeRestore(item=abstract_state, restore_args=restore_args),
        )
        return int(path.name), state, _host_file(path)["host"]

    def best_step(self) -> int:
        """Says which step is the best by `best_metric`, of those that are kept."""
        return _best_first(self._folder, self.steps(), self._best_metric, self._best_mode)[0]

    def _delete_old(self) -> None:
        steps = self.steps()
        keep = set(steps[-self._keep_last :])
        if self._keep_every:
            keep |= {step for step in steps if step % self._keep_every == 0}
        if self._best_metric:
            keep.add(_best_first(self._folder, steps, self._best_metric, self._best_mode)[0])
        for step in set(steps) - keep:
            # The manifest first: a deletion that is cut short leaves nothing that looks complete.
            (self._folder / str(step) / _MANIFEST).unlink()
            shutil.rmtree(self._folder / str(step))

    def bytes_needed(self, abstract_state: Any, *, num_steps: int, every_steps: int) -> int:
        """Returns how many more bytes the checkpoints of a run will take on disk at most.

        Args:
          abstract_state: shapes of what is saved.
          num_steps: the last step, which is always saved.
          every_steps: how often the others are; 0 for never.
        """
        every = every_steps or num_steps
        num_saved = -(-num_steps // every)
        num_kept = self._keep_last + bool(self._best_metric) + 1  # That which is being written.
        if self._keep_every:
            num_kept += num_steps // math.lcm(every, self._keep_every)  # Saved, and a multiple.
        leaves = jax.tree.leaves(abstract_state)
        size = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
        return size * max(1, min(num_saved, num_kept) - len(self.steps()))

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that a step was saved with."""
        return _host_file(self._folder / str(step))["metrics"]


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
    """Returns the newest intact step, or the best one by a metric; its parameters; its host data.

    The parameters are arrays of NumPy, whole in each process and on no device yet; averaged ones
    where the step has them. Raises UserError where no step is intact.
    """
    for attempt in range(_READ_ATTEMPTS):
        path = _agreed(folder.absolute(), best_metric, best_mode, is_own=False)
        if path is None:
            raise UserError(f"{folder} holds no checkpoint; train longer, or name another run")
        try:
            return int(path.name), *_read_params(path)
        except Exception:  # Of a folder that is gone, Orbax raises several kinds.
            if (path / _MANIFEST).exists() or attempt == _READ_ATTEMPTS - 1:
                raise


def _read_params(path: pathlib.Path) -> tuple[Any, dict[str, Any]]:
    """Returns parameters and host data of a step."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(path / _STATE).item_metadata.tree
        where = _average_path(saved["opt_state"], ("opt_state",)) or ("params",)
        wanted = lambda keys: (
            tuple(getattr(k, "key", getattr(k, "idx", None)) for k in keys)[: len(where)] == where
        )
        # A placeholder is not read: the optimiser's moments are twice the parameters.
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
    return restored, _host_file(path)["host"]


def _agreed(
    folder: pathlib.Path, best_metric: str, best_mode: str, *, is_own: bool
) -> pathlib.Path | None:
    path = None
    with hosts.together():
        if hosts.is_first():  # One finds it for all: files may come to others later, or move.
            path = _intact(folder, best_metric, best_mode, is_own=is_own)
    name = hosts.from_first("" if path is None else path.name)
    return folder / name if name else None


def _intact(
    folder: pathlib.Path, best_metric: str, best_mode: str, *, is_own: bool
) -> pathlib.Path | None:
    """Finds the newest step that its manifest proves, or the best; warns of damaged ones."""
    steps = _step_folders(folder)
    damaged = []
    order = steps[::-1]
    if best_metric:
        # A step whose metrics are damaged has no rank: it is tried, and so named, before others.
        has_rank = lambda s: _problem(folder / str(s), only=_HOST) in (None, _NEVER_WHOLE)
        order = sorted(_best_first(folder, steps, best_metric, best_mode), key=has_rank)
    for step in order:
        path = folder / str(step)
        problem = _problem(path)
        if problem is None:
            return path
        if (path / _MANIFEST).exists():
            damaged.append(f"{step}: {problem}")
        if is_own:  # This run has the folder to itself; a reader's may be one that is at work.
            aside = _set_aside(path)
            logging.warning("checkpoint %s is damaged (%s); set aside as %s", path, problem, aside)
        else:
            logging.warning("checkpoint %s is not used: %s; it is left as it is", path, problem)
    if damaged or (steps and any((folder / _DAMAGED).glob(f"*/{_MANIFEST}"))):
        where = f", all are in {folder / _DAMAGED}" if is_own else f" ({'; '.join(damaged[:3])})"
        raise UserError(
            f"{folder}: no checkpoint is intact{where}; restore one from a backup, or start in "
            "another workdir"
        )
    return None


def _set_aside(path: pathlib.Path) -> pathlib.Path:
    """Moves a damaged step into damaged/."""
    folder = path.parent / _DAMAGED
    folder.mkdir(exist_ok=True)
    # Of steps that were never whole, one is kept: every kill may leave another.
    if not (path / _MANIFEST).exists():
        for other in folder.iterdir():
            if not (other / _MANIFEST).exists():
                shutil.rmtree(other, ignore_errors=True)
    names = (folder / f"{path.name}-{i}" for i in itertools.count())
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside


def _best_first(folder: pathlib.Path, steps: list[int], metric: str, mode: str) -> list[int]:
    values = [(step, _host_file(folder / str(step))["metrics"].get(metric)) for step in steps]
    return ranked([(s, v if isinstance(v, float | int) else math.nan) for s, v in values], mode)


def _host_file(path: pathlib.Path) -> dict[str, Any]:
    """Reads host.json of a step; empty blocks of one that is damaged, which `_problem` says."""
    try:
        found = json.loads((path / _HOST).read_bytes())
        return found | {name: dict(found[name]) for name in ("host", "metrics")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {"host": {}, "metrics": {}, "step": None}


def _average_path(tree: Any, path: tuple) -> tuple | None:
    """Finds `AverageState.average` in an optimiser's saved state, wherever it stands in it."""
    if not isinstance(tree, dict | list | tuple):
        return None
    if "average" in tree:
        return (*path, "average")
    children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = (_average_path(child, (*path, key)) for key, child in children)
    return next((p for p in found if p is not None), None)


def _problem(path: pathlib.Path, *, only: str = "") -> str | None:
    """Says what is wrong with a step's files, if anything; of its state, too, without `only`."""
    if not (path / _MANIFEST).exists():
        return _NEVER_WHOLE
    if (problem := manifest.problem(path, only=only)) is not None:
        return problem
    # A whole copy of another step is intact too. Older versions did not write their step.
    step = _host_file(path).get("step", int(path.name))
    if step is None:
        return f"{_HOST} cannot be read"
    return None if step == int(path.name) else f"it is a copy of step {step}"


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


def _mute_tracebacks() -> None:
    # Exceptions of Orbax and TensorStore are raised here, as one line.
    standard_logging.getLogger("absl").addFilter(_is_no_traceback_of_orbax)
    standard_logging.getLogger("asyncio").addFilter(_is_no_fault_of_the_machine)
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)


class _WithoutClosedLoops:
    """A `sys.unraisablehook` that passes on all but one error."""

    def __init__(self, before: Callable):
        self._before = before

    def __call__(self, unraisable) -> None:
        # TensorStore's threads report to Orbax's event loop also after a failure has ended that.
        if str(unraisable.exc_value) != "Event loop is closed":
            self._before(unraisable)


def _is_no_traceback_of_orbax(record: standard_logging.LogRecord) -> bool:
    return not ("orbax" in record.pathname and record.exc_info)


def _is_no_fault_of_the_machine(record: standard_logging.LogRecord) -> bool:
    # asyncio logs the exception of a task whose result nobody asked for.
    error = record.exc_info[1] if record.exc_info else None
    is_full = error is not None and "RESOURCE_EXHAUSTED" in str(error)
    return error is None or not (is_full or faults.errno_of(error) is not None)


def _step_folders(folder: pathlib.Path) -> list[int]:
    paths = folder.iterdir() if folder_files.has_folder(folder) else ()
    return sorted(int(p.name) for p in paths if re.fullmatch("0|[1-9][0-9]*", p.name))
