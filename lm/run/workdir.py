"""Keeps a run's folder: which config it belongs to, how it was started, who is using it."""

import contextlib
import errno
import fnmatch
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lm.errors import UserError
from lm.run import lock
from lm.run.status import METRICS
from lm.system import atomic_files, folder_files, safe_text

CONFIG, _PROVENANCE = "config.json", "provenance.json"
_FILES = (CONFIG, _PROVENANCE, METRICS)
_FOLDERS = ("checkpoints", "checkpoints/damaged", "tensorboard", "tokenizer")
_OF_A_KILLED_START = {lock.NAME, f"{CONFIG}.tmp"}
_OF_A_START = {"data_hash", "git_commit", "git_dirty", "devices"}  # What is read of it again.
# On which devices a run goes on, by which engine, how long a document may be before it is an error,
# and what is stated of data change nothing of what it computes; runs of older versions do not have
# the limit.
_MAY_CHANGE = (
    "parallel.*",
    "data.engine.*",
    "data.max_document_bytes",
    "engine.kind",
    "engine.num_workers",
    "engine.options",
    "engine.runner",
    "engine.sort_bytes",
    "inputs.*.licence",
    "show_document",
)
# Keys that runs of older versions lack, with what they did.
ADDED = {
    "tokenizer.character_coverage": 0.9995,
    "train.only": "",
    "eval.corpora": {},
    "data.augment": "",
    "eval.fairness.pairs": "",
    "eval.fairness.prompts": "",
    "eval.fairness.classifier": "",
    "eval.fairness.positive": "",
}
_MOST_DEEP = 20  # Blocks in blocks of a config; ours have two or three.
_LENGTH = ("train.num_steps", "train.num_epochs")  # What `extend` lets grow.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
# What is left out of a command, besides passwords in URLs: the value of an option named so.
_SECRET_OPTION = re.compile(
    r"^(-[^=]*(?:key|token|password|passwd|secret|credentials?)=).*", re.IGNORECASE | re.DOTALL
)


def existing_part(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder itself if it exists, or else the nearest one above it that does."""
    return next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())


def check_usable(folder: pathlib.Path) -> None:
    """Raises UserError if a folder can be neither made nor written to."""
    try:
        existing = existing_part(folder)
    except OSError as error:  # As for a name that is too long.
        raise UserError(f"--workdir={folder}: {error.strerror}; name another folder") from None
    for part in [folder.absolute(), *folder.absolute().parents]:
        if part.is_symlink() and not part.exists():
            raise UserError(f"--workdir={folder}: {part} is a link to nothing; name a folder")
    if not existing.is_dir():
        raise UserError(f"--workdir={folder}: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={folder}: {existing} is not writable; name another folder")


def check(workdir: pathlib.Path, config: dict[str, Any], *, extend: bool = False) -> None:
    """Raises UserError if `workdir` was made by another config, or is something else altogether.

    What may change between starts, such as the mesh, is not compared. A link to nothing in the
    place of what a run has is refused, too: the disk may not be mounted. With `extend` there must
    be a run, which may be given more steps or epochs than it was.
    """
    check_usable(workdir)
    if extend and not (workdir / CONFIG).exists():
        raise UserError(f"--extend: --workdir={workdir} holds no run to extend; leave it out")
    if not workdir.exists():
        return
    for name in _FOLDERS:
        folder_files.has_folder(workdir / name)
    for name in _FILES:
        folder_files.has(workdir / name)
    if not (workdir / CONFIG).exists():
        if any(p.name not in _OF_A_KILLED_START for p in workdir.iterdir()):
            raise UserError(
                f"--workdir={workdir} holds other files and no run; name another folder"
            )
        return
    # By way of JSON, which makes lists of tuples, as in the file.
    ours, theirs = flat(json.loads(_dump(config))), flat(load_config(workdir))
    theirs = {key: value for key, value in ADDED.items() if key in ours} | theirs
    differing = sorted(
        key
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in _MAY_CHANGE)
    )
    if extend and set(differing) <= set(_LENGTH):
        _check_longer(workdir, theirs, ours)
    elif differing:
        # Of a run that is extended, its length may differ.
        differing = [key for key in differing if not (extend and key in _LENGTH)]
        key = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"--workdir={workdir} was made by another config: {key} is {theirs.get(key)!r} there, "
            f"{ours.get(key)!r} here{more}; choose another --workdir, or the config that made it"
            + (", or --extend to go on to the new length" if set(differing) <= set(_LENGTH) else "")
        )


def _check_longer(workdir: pathlib.Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for key in _LENGTH:
        old, new = theirs[key], ours[key]
        if new < old or bool(new) != bool(old):
            raise UserError(
                f"--extend: --workdir={workdir} was made with {key}={old}, and {new} is not more; "
                "extend it by the same key"
            )


def make(folder: pathlib.Path) -> None:
    """Makes a folder that may exist; raises UserError where its place takes none, as /proc does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"--workdir={folder}: {error.strerror}; name another folder") from None


@contextlib.contextmanager
def opened(
    workdir: pathlib.Path,
    config: dict[str, Any],
    *,
    data_hash: str,
    command: Sequence[str] | None = None,
    extend: bool = False,
) -> Iterator[None]:
    """Makes the folder or checks that it belongs to this config, and keeps others out.

    Args:
      workdir: need not exist.
      config: the resolved config; written once, and compared at every later start.
      data_hash: names the prepared data.
      command: for provenance.json, what gives this run; None for the command of this process.
      extend: see `check`; config.json and provenance.json then tell of the new length.

    Raises:
      UserError: another config made it, its data has changed, it is no run's folder, its files are
        damaged, or another process is using it.
    """
    check(workdir, config, extend=extend)
    make(workdir)
    with lock.held(workdir):
        before = starts(workdir)
        if before and before[-1]["data_hash"] != data_hash:
            raise UserError(
                f"--workdir={workdir} was trained on other data ({before[-1]['data_hash']}) than "
                f"data and tokenizer now give ({data_hash}); restore them, or choose another "
                "--workdir"
            )
        start = {"command": list(command or sys.argv), "data_hash": data_hash}
        if not (workdir / CONFIG).exists():
            atomic_files.write(workdir / CONFIG, _dump(config))
        kept = load_config(workdir)
        if extend and kept["train"] != config["train"]:
            start["extended_from"] = {key: flat(kept)[key] for key in _LENGTH}
        if flat(kept.get("inputs")) != flat(json.loads(_dump(config)).get("inputs")):
            # Of licences alone, or `check` had refused it; model cards read them here.
            atomic_files.write(workdir / CONFIG, _dump(kept | {"inputs": config["inputs"]}))
        _add_provenance(workdir, before, start)
        _say_other_cores(workdir)
        if "extended_from" in start:  # After the line that says so.
            atomic_files.write(workdir / CONFIG, _dump(kept | {"train": config["train"]}))
        yield


def plan(workdir: pathlib.Path, config: dict[str, Any]) -> None:
    """Makes the folder of a run that is yet to start, with its config alone; another's is kept."""
    make(workdir)
    if not any(workdir.iterdir()):
        atomic_files.write(workdir / CONFIG, _dump(config))


def load_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the config that made a run; raises UserError if this is not the folder of one."""
    path = workdir / CONFIG
    if not (path.exists() or path.is_symlink()):
        raise UserError(f"{workdir} is not a run's folder: it has no {CONFIG}")
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a config: it holds no JSON object")
    if _is_deep(config):
        raise UserError(f"{path} is not a config: it is nested more than {_MOST_DEEP} deep")
    return config


def _is_deep(tree: Any) -> bool:
    nodes = [tree]  # Level by level, since recursion would end at Python's limit first.
    for _ in range(_MOST_DEEP + 1):
        nodes = [x for node in nodes if isinstance(node, dict) for x in node.values()]
    return bool(nodes)


def read_json(path: pathlib.Path) -> Any:
    """Reads a file of JSON; raises UserError if it is none, or cannot be read."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))  # Editors may add a BOM.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}; restore it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def starts(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Reads every start of this run from provenance.json; raises UserError if that is damaged."""
    path = workdir / _PROVENANCE
    found = read_json(path) if path.exists() else []
    if not isinstance(found, list) or not all(
        isinstance(start, dict) and start.keys() >= _OF_A_START for start in found
    ):
        raise UserError(f"{path} is no list of a run's starts; restore it, or delete it")
    return found


def _add_provenance(
    workdir: pathlib.Path, before: list[dict[str, Any]], start: dict[str, Any]
) -> None:
    """Appends this start to provenance.json, with where and by what it was made."""
    import jax  # Here, since a launcher, which trains nothing, is quicker without it.

    root = pathlib.Path(__file__).parent.parent.parent
    devices = jax.devices()
    start = start | {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [
            safe_text.redacted(_SECRET_OPTION.sub(r"\1<redacted>", arg)) for arg in start["command"]
        ],
        "git_commit": _git(root, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(root, "status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        # As XLA counts them.
        "cores": int(os.environ.get("NPROC") or len(os.sched_getaffinity(0))),
    }
    atomic_files.write(workdir / _PROVENANCE, json.dumps([*before, start], indent=1))


def _say_other_cores(workdir: pathlib.Path) -> None:
    """Prints a line where the last two starts were on a CPU with unequal numbers of cores."""
    last = starts(workdir)[-2:]
    counts = [start.get("cores") for start in last]  # Older versions kept none.
    is_cpu = last[-1]["devices"].endswith(" x cpu")
    if is_cpu and None not in counts and len(set(counts)) > 1:
        print(
            f"goes on with {counts[1]} cores, after {counts[0]}: sums are grouped by their number, "
            "so that the last bits differ from a run on equal ones; see docs/parallelism.md",
            flush=True,
        )


def _git(root: pathlib.Path, *args: str) -> str | None:
    """Returns what git prints, or None outside a checkout."""
    try:
        done = subprocess.run(
            # Without the lock by which git would refresh its index: a kill would leave it there.
            ["git", "--no-optional-locks", "-C", root, *args],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _dump(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=1, sort_keys=True)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Joins keys by dots: {"a": {"b": 1}} -> {"a.b": 1}; an empty block stays as {}."""
    if not isinstance(tree, dict) or (prefix and not tree):
        return {prefix[:-1]: tree}
    return {k: v for key, child in tree.items() for k, v in flat(child, f"{prefix}{key}.").items()}
