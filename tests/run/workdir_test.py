import errno
import json
import multiprocessing
import os
import pathlib
import re
import sys

import pytest

from lm.errors import UserError
from lm.run import workdir

CONFIG = {"seed": 0, "model": {"width": 8, "sizes": (1, 2)}}


def test_a_new_folder_gets_its_config_and_where_it_came_from(tmp_path):
    with workdir.opened(tmp_path / "run", CONFIG, data_hash="abc"):
        pass

    assert workdir.load_config(tmp_path / "run") == {
        "seed": 0,
        "model": {"width": 8, "sizes": [1, 2]},
    }
    (start,) = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert start["data_hash"] == "abc"
    assert start["packages"].keys() >= {"jax", "flax", "optax"}
    assert re.fullmatch("[0-9a-f]{40}", start["git_commit"])


def test_every_start_is_kept_and_secrets_are_not(tmp_path, monkeypatch):
    kept = ["launch.py", "--config=a.py:tokenizer=bpe", "--config.eval.sample_tokens=0"]
    secret = ["--api_key=hunter2", "--config.log.TOKEN=hunter2=", "--a=https://me:hunter2@b/c"]
    monkeypatch.setattr(sys, "argv", [*kept, *secret])
    for _ in range(2):
        with workdir.opened(tmp_path, CONFIG, data_hash=""):
            pass

    text = (tmp_path / "provenance.json").read_text()
    assert [s["command"] for s in json.loads(text)] == [
        [
            *kept,
            "--api_key=<redacted>",
            "--config.log.TOKEN=<redacted>",
            "--a=https://<redacted>@b/c",
        ]
    ] * 2
    assert "hunter2" not in text


def test_a_run_goes_on_with_what_it_did_before_there_was_a_key_for_it(tmp_path):
    block = {"kind": "sentencepiece", "vocab_size": 300}
    with workdir.opened(tmp_path, {"tokenizer": block}, data_hash=""):
        pass

    workdir.check(tmp_path, {"tokenizer": block | {"character_coverage": 0.9995}})
    with pytest.raises(UserError, match=r"character_coverage is 0\.9995 there, 0\.9 here"):
        workdir.check(tmp_path, {"tokenizer": block | {"character_coverage": 0.9}})
    with pytest.raises(UserError, match=r"kind is .sentencepiece. there, .bytes. here"):
        workdir.check(tmp_path, {"tokenizer": {"kind": "bytes"}})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1, "model": CONFIG["model"]}, "seed is 0 there, 1 here"),
        ({"seed": 0, "model": {"width": 9, "sizes": (1, 2)}}, "model.width is 8 there, 9 here"),
        ({"seed": 0, "model": {"sizes": (1, 2)}}, "model.width is 8 there, None here"),
        ({"seed": 1, "model": {"width": 9, "sizes": (1, 2)}}, r"\(and 1 more\)"),
    ],
)
def test_another_config_is_told_apart_by_its_first_difference(tmp_path, other, message):
    with workdir.opened(tmp_path, CONFIG, data_hash=""):
        pass

    with pytest.raises(UserError, match=message):
        workdir.check(tmp_path, other)


def test_a_run_may_go_on_on_another_mesh(tmp_path):
    with workdir.opened(tmp_path, CONFIG | {"parallel": {"data": 8, "fsdp": 1}}, data_hash=""):
        pass

    workdir.check(tmp_path, CONFIG | {"parallel": {"data": 1, "fsdp": 4}})


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")

    with (
        pytest.raises(UserError, match="other files"),
        workdir.opened(tmp_path, CONFIG, data_hash=""),
    ):
        pass
    assert os.listdir(tmp_path) == ["thesis.tex"]


def hold(folder, ready, done):
    with workdir.opened(folder, CONFIG, data_hash=""):
        ready.set()
        done.wait()


def test_two_processes_cannot_share_a_folder_but_a_dead_one_does_not_block_it(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(120)

    with (
        pytest.raises(UserError, match=f"process {process.pid} on "),
        workdir.opened(tmp_path, CONFIG, data_hash=""),
    ):
        pass
    process.kill()
    process.join()

    with workdir.opened(tmp_path, CONFIG, data_hash=""):
        pass


@pytest.mark.parametrize("text", ["{", "[1]", '[{"time": ""}]', "\xff", "\0" * 64])
def test_a_damaged_provenance_is_named_and_kept(tmp_path, text):
    with workdir.opened(tmp_path, CONFIG, data_hash=""):
        pass
    path = tmp_path / "provenance.json"
    path.write_text(text)

    with (
        pytest.raises(UserError, match=f"{re.escape(str(path))} .*; restore it") as caught,
        workdir.opened(tmp_path, CONFIG, data_hash=""),
    ):
        pass
    assert "utf-32" not in str(caught.value)
    assert path.read_text() == text


def test_names_that_can_be_no_folder_are_refused(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")

    for name in ("link", "link/run", "loop/run", "a" * 300):
        with pytest.raises(UserError, match=f"--workdir={tmp_path}/{name}: "):
            workdir.check(tmp_path / name, CONFIG)
    (tmp_path / "link").readlink()


def test_a_place_that_takes_no_folder_is_refused(monkeypatch, tmp_path):
    def refuse(*args, **more):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")  # As below /proc.

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)

    with pytest.raises(UserError, match=f"--workdir={tmp_path}/run: No such file"):
        workdir.plan(tmp_path / "run", CONFIG)


def test_a_folder_for_a_lock_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()

    with (
        pytest.raises(UserError, match=r"\.lock is no file, but a folder"),
        workdir.opened(tmp_path, CONFIG, data_hash=""),
    ):
        pass


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        workdir.load_config(tmp_path)


def test_a_config_that_links_to_nothing_is_not_taken_for_absent(tmp_path):
    (tmp_path / "config.json").symlink_to("gone")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        workdir.load_config(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "checkpoints/damaged",
        "tensorboard",
        "tokenizer",
        "config.json",
        "provenance.json",
        "metrics.jsonl",
    ],
)
@pytest.mark.parametrize("kind", ["link", "loop", "other"])
def test_what_is_neither_there_nor_absent_is_named_before_anything_changes(tmp_path, name, kind):
    with workdir.opened(tmp_path, CONFIG, data_hash=""):
        pass
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "other":
        path.mkdir() if path.suffix else path.touch()
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "not mounted" / "x")
    before = sorted((p, p.lstat().st_mtime_ns) for p in tmp_path.rglob("*"))

    reason = re.escape(f"{path} is ") + "(a link to nothing|no file|no folder); .* remove it"
    with pytest.raises(UserError, match=reason):
        workdir.check(tmp_path, CONFIG)

    assert sorted((p, p.lstat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_a_config_that_is_nested_too_deep_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"a":' * 500 + "1" + "}" * 500)

    with pytest.raises(UserError, match=r"config\.json is not a config: it is nested more than 20"):
        workdir.check(tmp_path, {"a": 1})


def test_another_number_of_cores_is_kept_and_said(tmp_path, capsys, monkeypatch):
    for cores in ("2", "2", "3"):
        monkeypatch.setenv("NPROC", cores)
        with workdir.opened(tmp_path / "run", CONFIG, data_hash=""):
            pass

    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert [start["cores"] for start in starts] == [2, 2, 3]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("goes on with 3 cores, after 2: ")


def test_what_a_start_left_that_was_killed_before_its_config_was_whole_is_no_other_file(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.json.tmp").write_text("{")

    with workdir.opened(tmp_path, CONFIG, data_hash=""):
        assert workdir.load_config(tmp_path)["seed"] == CONFIG["seed"]
