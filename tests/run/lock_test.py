import errno
import fcntl
import os
import socket
import threading

import pytest

from lm.errors import UserError
from lm.run import lock
from lm.system import faults


def test_a_lock_names_its_holder_and_is_emptied_in_the_end(tmp_path):
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path) is True
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(UserError, match=f"in use by {holder};"), lock.held(tmp_path):
            pass
    assert lock.is_held(tmp_path) is False
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
        raise ZeroDivisionError
    assert (tmp_path / lock.NAME).read_text() == ""


def test_what_a_dead_process_left_is_taken_over(tmp_path):
    (tmp_path / lock.NAME).write_text("process 1 on a-host-with-a-long-name-that-is-gone")
    assert lock.is_held(tmp_path) is None
    with lock.held(tmp_path):
        text = (tmp_path / lock.NAME).read_text()
    assert text == f"process {os.getpid()} on {socket.gethostname()}"


def test_whoever_waits_gets_the_lock_of_one_file_as_soon_as_it_is_free(tmp_path):
    order = []

    def wait():
        with lock.held(tmp_path, file_name="a.lock", wait=True):
            order.append("second")

    with lock.held(tmp_path), lock.held(tmp_path, file_name="a.lock"):
        again = lock.held(tmp_path, "a part", file_name="a.lock")
        with pytest.raises(UserError, match=r"^a part is in use by process"), again:
            pass
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.7)  # Longer than one who does not wait would try.
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_whoever_looks_at_a_lock_does_not_keep_it_from_being_taken(tmp_path):
    with (tmp_path / lock.NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        timer = threading.Timer(0.1, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        try:
            with lock.held(tmp_path):
                pass
        finally:
            timer.join()


def test_a_lock_on_a_full_disk_is_named(tmp_path, monkeypatch):
    def write(file, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "write", write)
    with pytest.raises(OSError) as caught, lock.held(tmp_path):
        pass

    assert f"{tmp_path / lock.NAME}: the disk is full" in faults.one_line(caught.value)
