"""Lets several processes train together: they meet, agree, and do not wait for the dead.

Every process runs the same program on the same config. The first one alone writes into the workdir,
which all of them can read.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm.errors import UserError
from lm.system import supervisor

_SHUTDOWN_SECONDS = 10


@contextlib.contextmanager
def connected(
    coordinator: str | None,
    *,
    num_processes: int | None,
    process_id: int | None,
    connect_seconds: int,
    heartbeat_seconds: int,
) -> Iterator[None]:
    """Joins the other processes, and leaves when all are done.

    All but the first are silent on stdout. One that dies ends the others within
    `heartbeat_seconds`; see `lm.system.supervisor`.

    Args:
      coordinator: HOST:PORT of the first process; "auto" where JAX knows the cluster (Cloud TPU,
        Slurm, Open MPI); None for a process by itself.
      num_processes, process_id: how many there are, and which this one is; None with "auto".
      connect_seconds: how long to wait for the others at the start.
      heartbeat_seconds: how long one may be silent before it is taken for dead.

    Raises:
      UserError: the coordinator does not answer, the settings do not go together, or the processes
        have unequal numbers of devices.
    """
    _check(coordinator, num_processes, process_id)
    for name, seconds in (("connect", connect_seconds), ("heartbeat", heartbeat_seconds)):
        if seconds < 1:  # JAX would wait for ever.
            raise UserError(f"--{name}_seconds={seconds} must be at least 1")
    if coordinator is None:
        yield
        return
    try:
        with _silent_stderr():
            jax.distributed.initialize(
                None if coordinator == "auto" else coordinator,
                num_processes,
                process_id,
                initialization_timeout=connect_seconds,
                heartbeat_timeout_seconds=heartbeat_seconds,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            )
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        more = ", and JAX knows no cluster here" if coordinator == "auto" else ""
        text = " ".join(str(error).split())[:200]
        raise UserError(f"--coordinator={coordinator} cannot be joined ({text}){more}") from None
    supervisor.note_joined()
    try:
        with (
            pathlib.Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(sys.stdout if is_first() else nowhere),
        ):
            _check_devices()
            yield
        multihost_utils.sync_global_devices("the end")
        jax.distributed.shutdown()
    except UserError:  # All processes raise it, by `together`, so that all come to this barrier.
        jax.distributed.shutdown()
        raise
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())[:300]
        print(
            f"error: another process was lost, or a device of this one ({text}); start all of them "
            "again, and they go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(supervisor.LOST)  # Leaving properly would wait for the dead.


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if coordinator in (None, "auto"):
        if num_processes is not None or process_id is not None:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} must be auto, or HOST:PORT of process 0")
    if num_processes is None or process_id is None:
        raise UserError(f"--coordinator={coordinator} needs --num_processes and --process_id")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} must be from 0 to --num_processes={num_processes} less one"
        )
    if process_id == 0:
        try:
            socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
        except (OSError, OverflowError) as error:  # JAX would crash.
            raise UserError(f"--coordinator={coordinator}: {error}; name another port") from None


def _check_devices() -> None:
    # JAX's collectives between processes take equal numbers of devices for granted.
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        (most, n), (least, m) = counts.most_common()[0], counts.most_common()[-1]
        raise UserError(
            f"process {most} has {n} devices and process {least} has {m}; give each as many"
        )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    # Where XLA gives up waiting, it prints a stack trace that tells nothing, from C++: past
    # sys.stderr, to the file descriptor.
    kept = os.dup(2)
    with pathlib.Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises a UserError of one process in all of them; inside, none may wait for another."""
    error = None
    try:
        yield
    except UserError as caught:
        error = caught
    # Here all wait for all. One that had left alone would hang the others at their next collective.
    texts = _gather(str(error or ""))
    if error is not None:
        raise error
    for process, text in enumerate(texts):
        if text:
            raise UserError(f"process {process}: {text}")


def check_same(what: str, values: Mapping[str, Any]) -> None:
    """Raises UserError in all processes, at the first value that one has unlike process 0."""
    own = {key: repr(value) for key, value in values.items()}
    first, *others = map(json.loads, _gather(json.dumps(own)))
    for process, other in enumerate(others, start=1):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                raise UserError(
                    f"process {process} has another {what} than process 0: {key} is "
                    f"{other.get(key)} there and {first.get(key)} in process 0; start all alike"
                )


def from_first(text: str) -> str:
    """Returns the text of the first process, in all of them."""
    return _gather(text)[0]


def _gather(text: str) -> list[str]:
    """Returns the text of every process, in their order."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    # Twice, since collectives take equal shapes: the lengths, then the texts, filled up.
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    padded = np.pad(data, (0, int(sizes.max()) - len(data)))
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]
