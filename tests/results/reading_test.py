import fcntl
import json
import os
import shutil

import numpy as np
import pytest

from lm.errors import UserError
from lm.results.reading import natural, read
from tests.run_folders import config, losses, write


def only(root, metrics=("eval/loss",)):
    found = read(root, metrics)
    (run,) = found.runs
    return run, found.warnings


def test_runs_are_found_however_deep_and_in_the_order_of_their_numbers(tmp_path):
    for name in ("b/seed-10", "b/seed-9", "a", "a/later", "sweep/0a1f/seed-0"):
        write(tmp_path / name, config(), [])
    write(tmp_path / "a/checkpoints/3", config(), [])  # A run's own files are no runs.
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text('{"model_type": "gpt2"}')
    os.symlink(tmp_path / "a", tmp_path / "newest")

    found = read(tmp_path, ())

    names = ["a", "a/later", "b/seed-9", "b/seed-10", "sweep/0a1f/seed-0"]
    assert [run.name for run in found.runs] == names
    assert found.warnings == []


def test_numbers_in_names_are_numbers():
    names = ["lr-10", "lr-9", "lr-0.01", "lr-0.003", "lr", "²"]

    assert sorted(names, key=natural) == ["lr", "lr-0.003", "lr-0.01", "lr-9", "lr-10", "²"]


def test_states(tmp_path):
    write(tmp_path / "done", config(), [])
    write(tmp_path / "dead", config(), losses(1.0, 2.0), done=False)
    running = write(tmp_path / "running", config(), losses(1.0), done=False)
    (tmp_path / "planned").mkdir()
    (tmp_path / "planned/config.json").write_text(json.dumps(config()))

    with (running / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        states = {run.name: run.state for run in read(tmp_path, ()).runs}

    assert {name: (s.kind, s.step, s.num_steps) for name, s in states.items()} == {
        "done": ("done", 9, 9),
        "dead": ("dead", 2, 9),
        "running": ("running", 1, 9),
        "planned": ("waiting", 0, None),
    }


def test_a_copy_says_the_same_as_the_folder(tmp_path):
    original = write(tmp_path / "there/run", config(), losses(1.0, 2.0))
    for name in ("provenance.json", "tokenizer.txt"):
        (original / name).write_text("not needed")
    (tmp_path / "here/run").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(original / name, tmp_path / "here/run")

    (there, _), (here, _) = (only(tmp_path / name) for name in ("there", "here"))

    assert (here.name, here.state, here.config) == (there.name, there.state, there.config)
    np.testing.assert_array_equal(here.series["eval/loss"].values, [1.0, 2.0])


def test_a_series_is_what_was_asked_for_with_nan_for_null(tmp_path):
    records = [
        {"step": 1, "train/loss": 4.0, "train/tokens_per_second": 7.0},
        *losses(2.0, None),
        {"step": 3, "train/loss": 3.0, "train/tokens_per_second": 8.0},
    ]
    run, warnings = only(write(tmp_path / "run", config(), records))

    assert run.series.keys() == {"eval/loss"}
    np.testing.assert_array_equal(run.series["eval/loss"].steps, [1, 2])
    np.testing.assert_array_equal(run.series["eval/loss"].values, [2.0, np.nan])
    assert run.tokens_per_second == 8.0
    assert run.config == {"seed": 0, "optimizer.peak_lr": 0.1, "train.num_steps": 9}
    assert warnings == []


def test_what_lines_say_does_not_depend_on_which_others_are_asked_for(tmp_path):
    records = [
        {"step": step, f"{kind}/loss": step / 3 if step % 4 else None, f"{kind}/other": 1.0}
        for step in range(1, 9)
        for kind in ("train", "eval")
    ]
    folder = write(tmp_path / "run", config(), records)

    all_of_it, _ = only(folder, None)

    names = {f"{kind}/{name}" for kind in ("train", "eval") for name in ("loss", "other")}
    assert all_of_it.series.keys() == names
    for name, series in all_of_it.series.items():
        alone, _ = only(folder, (name,))
        np.testing.assert_array_equal(alone.series[name].steps, series.steps)
        np.testing.assert_array_equal(alone.series[name].values, series.values)


@pytest.mark.parametrize("tail", ['{"step": 3, "eval/lo', '{"st', "{", '{"step": 3}{'])
def test_a_half_written_last_line_is_ignored_and_counted(tmp_path, tail):
    folder = write(tmp_path / "run", config(), losses(2.0, 1.0), done=False, tail=tail)

    run, warnings = only(folder)

    assert run.is_cut and (run.state.kind, run.state.step) == ("dead", 2)
    np.testing.assert_array_equal(run.series["eval/loss"].values, [2.0, 1.0])
    assert warnings == ["last line of metrics.jsonl half-written and ignored: run (1 in all)"]


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path):
    tail = json.dumps({"step": 3, "eval/loss": 0.5})
    folder = write(tmp_path / "run", config(), losses(2.0, 1.0), done=False, tail=tail)

    run, warnings = only(folder)

    assert run.state.step == 3 and run.series["eval/loss"].values[-1] == 0.5 and not warnings


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[1]",
        '{"eval/loss": 1.0}',
        '{"step": "3", "eval/loss": 1.0}',
        '{"step": 3, "eval/loss": "low"}',
        '{"step": 3, "eval/loss": 1.0',
        '{"step": 3, "train/x": 1',
        '{"step": 3, "train/x": 1{"step": 3, "train/x": 1}',
        "\x00\x00\x00",
        '{"step": 3, "eval/loss": \udc80}',
        '{"step": -5, "eval/loss": 1.0}',
        pytest.param(f'{{"step": 3, "eval/loss": -{"9" * 400}}}', id="a value of 400 digits"),
        pytest.param(f'{{"step": {"9" * 400}, "eval/loss": 3.0}}', id="a step of 400 digits"),
    ],
)
def test_other_broken_lines_are_named_and_the_rest_counts(tmp_path, line):
    records = [{"step": 0, "train/x": 1}, *losses(2.0, 1.0)]
    folder = write(tmp_path / "run", config(), records, done=False)
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3:3] = [line.encode(errors="surrogateescape")] * 2
    path.write_bytes(b"\n".join(lines))

    run, warnings = only(folder)

    assert warnings == [f"{path}: 2 lines are broken and ignored, the first is 4"]
    assert not run.is_cut and run.state.step == 2 and run.state.num_broken == 2
    np.testing.assert_array_equal(run.series["eval/loss"].values, [2.0, 1.0])


def test_records_of_other_writers_count(tmp_path):
    folder = write(tmp_path / "run", config(), [])
    (folder / "metrics.jsonl").write_text(
        '{"eval/loss":NaN,"step":1}\r\n{"eval/loss":2,"step":2}\n'
    )

    run, warnings = only(folder)

    np.testing.assert_array_equal(run.series["eval/loss"].values, [np.nan, 2.0])
    assert not warnings


def test_more_steps_than_are_counted_are_not_believed(tmp_path):
    records = [{"step": 1, "run/num_steps": 10**40}]
    run, _ = only(write(tmp_path / "run", config(), records))

    assert run.state.num_steps == 9


def test_numbers_whose_squares_are_none_are_as_good_as_infinite(tmp_path):
    run, _ = only(write(tmp_path / "run", config(), losses(1e308, -1e308, 1e100)))

    np.testing.assert_array_equal(run.series["eval/loss"].values, [np.nan, np.nan, 1e100])


def test_folders_without_a_usable_config_are_left_out_and_said(tmp_path):
    write(tmp_path / "good", config(), [])
    for name in ("a", "b", "c", "d"):
        (write(tmp_path / name, config(), []) / "config.json").unlink()
    (write(tmp_path / "text", config(), []) / "config.json").write_text("{")

    run, (broken, without) = only(tmp_path)

    assert run.name == "good"
    assert broken.startswith(f"left out: {tmp_path}/text/config.json is not valid JSON")
    assert without == "left out for want of config.json: a, b, c, ... (4 in all)"


def test_a_run_that_cannot_be_read_is_left_out_and_said(tmp_path):
    write(tmp_path / "good", config(), [])
    for name, file in (("a", "config.json"), ("b", "metrics.jsonl")):
        (write(tmp_path / name, config(), []) / file).unlink()
        (tmp_path / name / file).mkdir()
        (tmp_path / name / "metrics.jsonl").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text("[" * 100_000)
    (tmp_path / "less deep").mkdir()
    (tmp_path / "less deep" / "config.json").write_text('{"a":' * 500 + "1" + "}" * 500)

    run, warnings = only(tmp_path)

    assert run.name == "good"
    assert len(warnings) == 4
    files = ("a/config.json", "b/metrics.jsonl", "deep/config.json", "less deep/config.json")
    for name in files:
        assert [x for x in warnings if x.startswith("left out: ") and str(tmp_path / name) in x]
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(UserError, match=r"holds no run: left out: .*a/config\.json cannot be read"):
        read(tmp_path, ())


def test_a_line_that_is_nested_too_deep_is_a_broken_one(tmp_path):
    folder = write(tmp_path / "run", config(), losses(1.0))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")

    run, warnings = only(folder)

    assert run.series["eval/loss"].values.tolist() == [1.0]
    assert [line for line in warnings if line.endswith("is broken and ignored")]


def test_a_folder_that_was_asked_for_by_name_must_be_readable(tmp_path):
    folder = write(tmp_path / "run", config(), [])
    for text, message in (("[]", "holds no JSON object"), ("{", "is not valid JSON")):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read(folder, ())
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"run has metrics.jsonl and no config.json"):
        read(folder, ())
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="holds no run"):
        read(folder, ())
    with pytest.raises(UserError, match="is not a folder"):
        read(folder / "nothing", ())
