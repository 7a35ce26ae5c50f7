"""Benchmarks run, say the same things of what they measure, and compare like with like."""

import ast
import json
import math
import pathlib
import time

import jax
import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks import checkpoint, gpu, loss, results, sides, train_cases, train_peers
from lm.loading import task_model
from lm.models.factory import make_model
from lm.models.families import param_shapes

FOLDER = pathlib.Path(runner.__file__).parent
# Checks say yes or no, and one says what is learned: they measure neither time nor memory.
PROGRAMS = sorted(
    path
    for path in FOLDER.glob("*.py")
    if "__name__ ==" in path.read_text()
    and not path.name.startswith(("__", "check_", "finetuning_"))
    and not path.stem.endswith("_peers")  # A side of another program.
)
LINE = {
    "benchmark": "one/case",
    "shape": {"rows": 3},
    "seconds": 0.5,
    "peer": "another",
    "peer_seconds": 1.0,
    "ratio": 2.0,
    "target": {"seconds": 0.6, "ratio": 1.5},
    "note": "",
}


def test_the_list_names_every_program_and_why_it_is_skipped(capsys, monkeypatch):
    monkeypatch.setattr(sides, "device", lambda: ("cpu", None))

    assert runner.main(["--list"]) == 0

    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert {name.split("/")[0] for name in lines} == {path.stem for path in PROGRAMS}
    assert lines["loss"] == "runs here"
    assert lines["train_step/llama"] == "skipped, needs gpu, and JAX has cpu here"
    no_torch = lambda package: None if package == "torch" else package
    assert runner.why_not(runner.BENCHMARKS["generation"], "gpu", no_torch) == "needs torch"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_what_a_program_measures_leaves_it_in_the_common_shape_alone(path):
    tree = ast.parse(path.read_text())
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert any(call.startswith("results.emit(") for call in calls)
    assert not any(call.startswith("print(json.dumps(") for call in calls)


@pytest.mark.parametrize(
    "program, flags",
    [(checkpoint, ("--megabytes=7", "--rounds=1")), (loss, runner.BENCHMARKS["loss"].small)],
    ids=["checkpoint", "loss"],
)
def test_measurements_have_the_common_keys(program, flags, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", *flags])

    program.main()

    for line in capsys.readouterr().out.splitlines():
        result = json.loads(line)
        (unit,) = result.keys() & set(results.UNITS)
        assert {*results.KEYS, f"peer_{unit}"} <= result.keys()
        assert len(results.row(result)) == len(results.COLUMNS)


@pytest.mark.parametrize(
    "change, reached",
    [
        ({}, True),
        ({"seconds": 0.7}, False),
        ({"ratio": 1.4}, False),
        ({"target": {}}, True),
        ({"target": {"memory_ratio": 1.0}, "memory_ratio": 0.9}, False),
    ],
)
def test_seconds_are_to_be_few_and_ratios_large(change, reached):
    assert results.met(LINE | change) == reached


def test_one_failure_stops_no_other(tmp_path, capsys):
    line = json.dumps(LINE)
    commands = {"bad": ["-c", "raise SystemExit(3)"], "good": ["-c", f"print({line!r})"]}

    skipped = {"other": "needs gpu"}
    assert runner.run(commands, skipped, tmp_path / "out", has_targets=True) == 1

    assert [json.loads(x) for x in (tmp_path / "out").read_text().splitlines()] == [LINE]
    table = capsys.readouterr().out
    assert "failed with exit code 3" in table and "skipped: needs gpu" in table
    del commands["bad"]
    assert runner.run(commands, {}, tmp_path / "out", has_targets=False) == 0
    assert json.loads((tmp_path / "out").read_text())["target"] == {}


def test_what_is_past_its_time_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    stops, shown = [], []

    class Timer:
        def __init__(self, seconds, stop):
            stops.append((seconds, stop))

        start = cancel = lambda self: None

    def show(found, remarks):
        shown.append((list(found), list(remarks)))
        if len(shown) == 1:  # It has measured something when its time is up.
            stops[-1][1]()

    monkeypatch.setattr(runner.threading, "Timer", Timer)
    # What it has started holds its output, so that there would be no end.
    start = "import subprocess, time; subprocess.Popen(['sleep', '60'])"
    commands = {"slow": ["-c", f"{start}; print({json.dumps(LINE)!r}, flush=True); time.sleep(60)"]}
    limits, begun = {"slow": 9}, time.monotonic()

    code = runner.run(
        commands, {}, tmp_path / "out", has_targets=True, limits=limits, budget=8.0, show=show
    )

    assert code == 1
    assert time.monotonic() - begun < 60
    assert 7 < stops[0][0] <= 8  # Of both limits the nearer one.
    assert shown[0] == ([LINE], [])
    assert shown[-1] == ([LINE], ["slow: stopped after 8 s."])
    assert runner.run(commands, {}, tmp_path / "out", has_targets=True, budget=0.0, show=show) == 1
    assert shown[-1] == ([], ["slow: not taken, the time was up."])


def test_the_table_of_a_gpu_has_what_was_measured_and_what_was_not():
    more = {"device": "NVIDIA H200", "versions": {"jax": "1"}, "mfu": 0.4, "peer_mfu": 0.5}
    check = {"case": "packed", "kernel": "cudnn", "versions": {}, "ok": False}
    wrong = check | {"errors": {"o": 0.5, "dq": 0.1}, "seconds": 2e-3, "peer_seconds": 1e-3}

    text = gpu.markdown([LINE | more, check | {"error": "none"}, wrong], ["other: not taken."])

    assert "NVIDIA H200; jax 1." in text and "0 of 2 right" in text
    assert "| one/case | another | 0.6 s at most, 1.50 at least: met |" in text
    assert "| 40% / 50% |" in text
    assert "| packed | cudnn | no: none |" in text
    assert "| packed | cudnn | **no** | 2.00 | 1.00 | 0.5 |" in text
    assert text.endswith("\nother: not taken.\n")


def test_sides_share_a_gpu_that_holds_all_of_them():
    assert gpu.SHARES.keys() - {"check_kernels"} <= runner.BENCHMARKS.keys()
    assert "--together" in gpu.flags_of("train_step/llama", 105 * 10**9)
    assert "--together" not in gpu.flags_of("train_step/llama", 60 * 10**9)
    assert "--together" not in gpu.flags_of("loss", 105 * 10**9)


class FakeSide:
    """Writes down what it is told; the peer takes twice as long, and both are slow at first."""

    def __init__(self, name, events):
        self.facts, self._name, self._events = {"name": name}, name, events
        self._slower_by = [10, 5]
        events.append(f"start {name}")

    def run(self, question):
        self._events.append(f"{self._name} {question}")
        seconds = {"ours": 1.0, "peer": 2.0}[self._name]
        if self._slower_by:
            seconds += self._slower_by.pop(0)
        return {"seconds": seconds, "processor_seconds": 2 * seconds, "peak_bytes": 7}

    def close(self):
        self._events.append(f"end {self._name}")


def test_a_side_that_waited_settles_before_it_is_timed(monkeypatch, capsys):
    events = []
    monkeypatch.setattr("sys.stdin", ["1\n", "2\n", "3\n"])

    sides.serve({}, events.append, lambda: None, settle=lambda: events.append("settle"))

    assert events == [1, "settle", 2, "settle", 3]  # The first run is the one that compiles.
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("together", [True, False])
def test_sides_take_turns_or_never_meet(together):
    events = []
    starts = {name: lambda name=name: FakeSide(name, events) for name in ("ours", "peer")}

    (found,) = sides.compare(starts, ["q"], 4, together=together)

    assert found["ours"].seconds == [1.0] * 4 and found["ours"].compile_seconds == 10
    assert sides.ratio(found["ours"], found["peer"]) == 2
    assert sides.memory_of(found["ours"], found["peer"])["memory_ratio"] == 1
    spent = {"processor_seconds": 1, "peer_processor_seconds": 2}  # A round has two steps.
    assert sides.processor_seconds_of(found["ours"], found["peer"], 2) == spent
    if together:  # Who begins changes.
        counted = events[events.index("end ours") - 8 : events.index("end ours")]
        assert counted == ["peer q", "ours q", "ours q", "peer q"] * 2
    else:
        assert events.index("end ours") < events.index("start peer")


@pytest.mark.parametrize("case, millions", [("gpt2", 124), ("bert", 109), ("llama", 379)])
def test_peers_have_as_many_parameters_as_we(case, millions):
    config = train_cases.config_of(case, dict.fromkeys(train_cases.SIZES), "default")
    if config.experiment == "pretrain":
        shapes = param_shapes(make_model(config.model, causal=True))
    else:
        task = train_cases.no_data(config).task
        model = task_model.make_model(config, task)
        shapes = jax.eval_shape(lambda: task.objective.init_params(model, jax.random.key(0)))
    ours = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))

    assert round(ours / 1e6) == millions
    for peer in train_cases.CASES[case].peers:
        make = train_peers.MODELS[peer, config.model.name]
        with torch.device("meta"):
            model, _, _ = make(config)
        assert sum(p.numel() for p in model.parameters()) == ours, peer


def test_sizes_keep_their_proportions():
    sizes = dict.fromkeys(train_cases.SIZES) | dict(model_dim=64, num_heads=4, seq_len=16)

    config = train_cases.config_of("quickstart", sizes, "scanned")

    shape = train_cases.shape_of(config)
    assert shape["mlp_dim"] == 256 and config.model.head_dim == 16 and shape["seq_len"] == 16
    assert config.model.scan_layers
