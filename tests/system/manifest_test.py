"""Lists of a folder's files."""

import os

from lm.system import manifest


def test_what_a_killed_write_left_is_not_listed(tmp_path):
    (tmp_path / "a").write_text("a")
    manifest.write(tmp_path)
    (tmp_path / "manifest.json.tmp").write_text('{"a": [')

    manifest.write(tmp_path)

    assert manifest.problem(tmp_path) is None
    (tmp_path / "a").write_text("b")
    assert manifest.problem(tmp_path) == "a has changed since it was written"


def test_the_disk_has_what_is_listed_before_the_list(tmp_path, monkeypatch):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_text("a")
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda opened: synced.append(os.readlink(f"/proc/self/fd/{opened}"))
    )

    manifest.write(tmp_path)

    names = [path.rpartition("/")[2] for path in synced]
    assert names.index("a") < names.index("manifest.json.tmp")
