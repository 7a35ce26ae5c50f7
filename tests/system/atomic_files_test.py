"""Files and folders that get their names only when they are whole."""

import errno
import os
import stat
import threading

import pytest

from lm.system import atomic_files


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    with (
        pytest.raises(OSError, match="No space") as caught,
        atomic_files.replacing(path) as temporary,
    ):
        temporary.write_text("half of the")
        assert path.read_text() == "old"
        raise OSError(errno.ENOSPC, "No space left on device")

    assert caught.value.filename == str(path)
    assert contents(tmp_path) == {"page.html": "old"}
    atomic_files.write(path, "n\u00e9w\n")
    assert path.read_bytes() == b"n\xc3\xa9w\n"
    assert contents(tmp_path).keys() == {"page.html"}


def test_a_folder_that_cannot_be_written_is_said_of_the_file_that_was_named(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("none/a", "folder"):
        with pytest.raises(OSError) as caught:
            atomic_files.write(tmp_path / name, "a")
        assert caught.value.filename == str(tmp_path / name)


@pytest.mark.parametrize("target", ["real", "elsewhere/real"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, target, is_there):
    (tmp_path / "elsewhere").mkdir()
    link, real = tmp_path / "link", tmp_path / target
    link.symlink_to(target)
    if is_there:
        real.write_text("old")
        real.chmod(0o640)

    atomic_files.write(link, "new")

    assert link.is_symlink() and os.readlink(link) == target
    assert real.read_text() == "new" and not real.is_symlink()
    assert not is_there or stat.S_IMODE(real.stat().st_mode) == 0o640
    assert not [*tmp_path.rglob("*.tmp")]


def test_a_pipe_is_written_and_stays_one(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
    reader.start()

    atomic_files.write(path, "new")

    reader.join(timeout=10)
    assert read == ["new"]
    assert path.is_fifo() and [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_the_disk_has_all_of_it_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(opened):
        named = (tmp_path / "file").exists(), (tmp_path / "folder").exists()
        synced.append((os.path.basename(os.readlink(f"/proc/self/fd/{opened}")), *named))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", note)
    atomic_files.write(tmp_path / "file", "new")
    (tmp_path / "part" / "a").mkdir(parents=True)
    (tmp_path / "part" / "a" / "b").write_text("b")
    atomic_files.rename_folder(tmp_path / "part", tmp_path / "folder")

    assert synced[:2] == [("file.tmp", False, False), (tmp_path.name, True, False)]
    assert sorted(synced[2:-1]) == [(name, True, False) for name in ("a", "b", "part")]
    assert synced[-1] == (tmp_path.name, True, True)
    assert (tmp_path / "folder" / "a" / "b").read_text() == "b"
