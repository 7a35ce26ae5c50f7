"""Lists of a folder's files."""

from lm import manifest


def test_what_a_killed_write_left_is_not_listed(tmp_path):
    (tmp_path / "a").write_text("a")
    manifest.write(tmp_path)
    (tmp_path / "manifest.json.tmp").write_text('{"a": [')

    manifest.write(tmp_path)

    assert manifest.problem(tmp_path) is None
    (tmp_path / "a").write_text("b")
    assert manifest.problem(tmp_path) == "a has changed since it was written"
