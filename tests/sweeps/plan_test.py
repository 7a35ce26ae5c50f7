"""Planning: from overrides to runs, and what is refused before anything starts."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from configs import quickstart
from experiments import cli
from experiments.launchers import local
from experiments.sweeps import costs
from experiments.sweeps import launch as launch_lib
from experiments.sweeps import plan as plan_lib
from experiments.sweeps.plan import Base
from experiments.wiring import pretraining
from lm.corpus import preparation
from lm.errors import UserError
from lm.run import workdir
from lm.run.status import state_of

ROOT = pathlib.Path(__file__).parent.parent.parent
DEBUG = Base("configs/quickstart.py:debug", {"data.seq_len": 32})


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def plan(*overrides, base=DEBUG, folder="runs/x"):
    return plan_lib.plan(base, overrides, pathlib.Path(folder))


def test_a_run_is_named_by_its_config_and_says_what_differs():
    one, other = plan({"optimizer.peak_lr": 3e-3, "seed": 0}, {"seed": 1})

    assert one.overrides == {"optimizer.peak_lr": 3e-3}
    assert one.config.optimizer.peak_lr == 3e-3 and one.config.data.seq_len == 32
    assert one.arguments == (
        "--config=configs/quickstart.py:debug",
        "--config.data.seq_len=32",
        "--config.optimizer.peak_lr=0.003",
        "--config.seed=0",
        f"--workdir=runs/x/{one.name}",
    )
    assert one.workdir == pathlib.Path("runs/x") / one.name
    assert one.name != other.name and len(one.name) == 10 and int(one.name, 16)
    (again,) = plan({"optimizer.peak_lr": 3e-3}, folder="elsewhere")
    assert again.name == one.name
    with pytest.raises(AttributeError):
        one.config.optimizer.peak_learning_rate = 1.0


def test_keys_that_are_new_do_not_rename_runs():
    (run,) = plan({"seed": 1})
    (adapted,) = plan({"seed": 1}, base=Base("configs/adapt.py", {}))
    (tuned,) = plan({"seed": 1}, base=Base("configs/classify.py", {}))

    values = cli.flat(tuned.config) | cli.flat(adapted.config) | cli.flat(run.config)
    new = {"data.engine.runner", "data.engine.options", *workdir.ADDED}
    assert new <= plan_lib.SINCE.keys() & values.keys()
    for key in new:
        assert values[key] == plan_lib.SINCE[key], key


def test_arguments_of_the_config_are_joined():
    (run,) = plan({"arg": "optimizer=lion,schedule=wsd", "optimizer.peak_lr": 0.5})

    assert run.arguments[0] == "--config=configs/quickstart.py:debug,optimizer=lion,schedule=wsd"
    assert (run.config.optimizer.name, run.config.optimizer.peak_lr) == ("lion", 0.5)
    assert run.overrides["arg"] == "optimizer=lion,schedule=wsd"
    (run,) = plan({"arg": "debug"}, base=Base("configs/quickstart.py", {}))
    assert run.arguments[0] == "--config=configs/quickstart.py:debug"


VALUES = {
    "optimizer.peak_lr": 0.1 + 0.2,
    "eval.compressors": False,
    "data.train": "a b/*.txt, '\"$x",
    "tokenizer.user_symbols": ("<a, b>", "c"),
    "train.num_steps": 7,
}


def test_a_process_resolves_just_what_was_planned():
    (run,) = plan(VALUES)

    command = [sys.executable, "launch.py", *run.arguments, "--print_config"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    import yaml

    assert yaml.safe_load(printed) == json.loads(run.config.to_json())
    for key, value in VALUES.items():
        block, name = key.split(".")
        assert run.config[block][name] == value


REFUSED = {
    "an unknown key": ({"optimizer.peak_lrr": 0.1}, "optimizer.peak_lrr=0.1.*peak_lr"),
    "an unknown argument": ({"arg": "optimiser=lion"}, "optimiser"),
    "a word for a number": ({"seed": "one"}, "--config.seed=one"),
    "a fraction for a count": ({"seed": 2.5}, "--config.seed=2.5"),
    "a number for a word": ({"optimizer.name": 3}, "optimizer=3 is unknown"),
    "a word for a tuple": ({"tokenizer.user_symbols": "a"}, r"user_symbols='a'.*\['a'\]"),
    "a block": ({"objective": {"kind": "causal"}}, "objective is a block"),
    "another experiment": ({"experiment": "evaluate"}, "experiment='evaluate'"),
    "no value": ({"seed": object}, "seed=.*object"),
    "several numbers": ({"seed": np.array([1, 2])}, "seed="),
    "a number out of its range": ({"seed": -1}, "seed=-1 must lie in"),
    "a key set twice": ({"data.seq_len": 16}, "data.seq_len is on the command line"),
    "a key inside one": ({"data": {"seq_len": 16}}, "data.seq_len is on the command line"),
    "an argument set twice": ({"arg": "debug=false"}, "both set the argument debug"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_override_that_cannot_be_followed_is_refused_in_one_line(name):
    override, message = REFUSED[name]

    with pytest.raises(UserError, match=message) as caught:
        plan({"seed": 3}, override)
    assert "\n" not in str(caught.value)


def test_the_command_line_s_own_mistake_is_not_laid_on_the_sweep(tmp_path):
    with pytest.raises(UserError, match=r"^seed=-1 must lie in"):
        plan_lib.plan_alone(Base("configs/quickstart.py:debug", {"seed": -1}), tmp_path / "run")


def test_a_search_takes_numbers_of_numpy(tmp_path, capsys):
    path = tmp_path / "search.py"
    path.write_text(
        "import numpy as np\nfrom configs import sweeping\ndef sweep():\n"
        "    space = {'optimizer.peak_lr': list(np.logspace(-4, -2, 3)),\n"
        "             'optimizer.warmup_steps': ('integers', np.int64(1), np.int64(2))}\n"
        "    return sweeping.search(space, num_trials=2, pruner='none')\n"
    )
    launch_lib.launch(
        DEBUG,
        str(path),
        tmp_path / "runs",
        local,
        {"num_parallel": 1, "devices_per_run": 0},
        can_search=True,
        dry_run=True,
    )

    assert "optimizer.peak_lr in [0.0001, 0.001, 0.01]" in capsys.readouterr().out


def test_two_runs_of_one_config_are_refused():
    with pytest.raises(UserError, match=r"one run twice: seed=0 and optimizer\.peak_lr=0\.01"):
        plan({"seed": 0}, {"optimizer.peak_lr": 0.01})


FILES = {
    "no file": (None, "no such file"),
    "no sweep": ("sweeps = 3", r"no function sweep\(\)"),
    "an exit": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "no run": ("def sweep(): return []", "no run"),
    "an error": ("def sweep():\n  raise ValueError('two\\nlines')", "ValueError: two"),
    "half a file": ("def sweep(:", "SyntaxError"),
    "one dict": ("def sweep(): return {'seed': 1}", "list of dicts"),
    "numbers": ("def sweep(): return [1, 2]", "list of dicts"),
    "nothing": ("def sweep(): pass", "list of dicts"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_yields_no_sweep_is_refused(name, tmp_path):
    text, message = FILES[name]
    path = tmp_path / "sweep.py"
    if text is not None:
        path.write_text(text)

    with pytest.raises(UserError, match=message):
        plan_lib.read(str(path))


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("configs/quickstart.py", "configs/quickstart.py"),
        ("configs/sweeps/optimizers.py", "configs/quickstart.py"),
        ("configs/sweeps/glue.py", "configs/classify.py"),
        ("configs/sweeps/lora.py", "configs/classify.py"),
        ("configs/sweeps/label_efficiency.py", "configs/classify.py"),
        ("configs/sweeps/scaling.py", "configs/quickstart.py"),
        ("configs/sweeps/crf.py", "configs/tag.py:debug"),
    ],
)
def test_the_sweeps_that_come_along_can_be_planned(path, base):
    runs = plan(*plan_lib.read(path), base=Base(base, {}))

    assert len(runs) > 8


class Fake:
    """A launcher that remembers what it was told."""

    def __init__(self):
        self.told = None

    def run(self, runs, folder, *, num_parallel: int):
        self.told = runs, folder, {"num_parallel": num_parallel}
        return 75

    def plan(self, runs, folder, **settings):
        return f"would start {len(runs)}"

    def check(self, **settings):
        assert settings == {"num_parallel": 2}


def launch(launcher, sweep_file, folder, base=DEBUG, dry_run=False):
    return launch_lib.launch(
        base,
        sweep_file and str(sweep_file),
        folder,
        launcher,
        {"num_parallel": 2},
        can_search=False,
        dry_run=dry_run,
    )


def test_a_launcher_gets_the_runs_the_folder_and_its_settings(tmp_path, capsys):
    launcher = Fake()

    assert launch(launcher, "configs/quickstart.py", tmp_path / "runs") == 75

    runs, folder, settings = launcher.told
    assert len(runs) == 9 and folder == tmp_path / "runs" and settings == {"num_parallel": 2}
    assert "9 waiting" in capsys.readouterr().out
    assert [state_of(run.workdir).kind for run in runs] == ["waiting"] * 9
    for run in runs:
        workdir.check(run.workdir, run.config.to_dict())
        assert workdir.load_config(run.workdir)["seed"] == run.config.seed


@pytest.mark.parametrize("asked", ["check", "plan"])
def test_a_launcher_that_refuses_leaves_nothing_behind(asked, tmp_path):
    def refuse(*args, **settings):
        raise UserError("no such devices")

    launcher = Fake()
    setattr(launcher, asked, refuse)
    with pytest.raises(UserError, match="no such devices"):
        launch(launcher, "configs/quickstart.py", tmp_path / "runs")
    assert launcher.told is None and not (tmp_path / "runs").exists()


def test_a_run_without_a_sweep_has_the_workdir_itself(tmp_path):
    launcher = Fake()
    launch(launcher, None, tmp_path / "runs" / "one")

    (run,), folder, _ = launcher.told
    assert run.workdir == tmp_path / "runs" / "one" and folder == tmp_path / "runs"
    assert run.arguments[-1] == f"--workdir={tmp_path}/runs/one" and run.overrides == {}


NOT_LAUNCHED = {
    "a search elsewhere": ("configs/sweeps/search.py", DEBUG, "--launcher=local"),
    "an experiment that is no training": (
        "configs/quickstart.py",
        Base("configs/generate.py", {}),
        "experiment='generate'",
    ),
}


@pytest.mark.parametrize("name", NOT_LAUNCHED)
def test_what_cannot_be_launched_is_refused(name, tmp_path):
    path, base, message = NOT_LAUNCHED[name]
    launcher = Fake()

    with pytest.raises(UserError, match=message):
        launch(launcher, path, tmp_path / "runs", base=base)
    assert launcher.told is None


def test_the_folder_of_a_run_is_no_folder_for_a_sweep(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(UserError, match="folder of a run"):
        launch(Fake(), "configs/quickstart.py", tmp_path)


def log(run, *records):
    run.workdir.mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run.workdir / "metrics.jsonl").write_text(text)


def test_costs_are_those_of_what_is_left(tmp_path):
    wide = {"arg": "optimizer=adamw", "model.model_dim": 32}
    changes = [{"seed": 1}, {"seed": 2}, {"seed": 3}, wide]
    done, dead, *_ = runs = plan(*changes, folder=tmp_path)
    log(done, {"step": 2, "train/tokens_per_second": 50.0}, {"step": 4, "run/done": 1})
    log(dead, {"step": 0, "run/num_steps": 4}, {"step": 1, "train/loss": 1.0})

    rows = costs.make_rows(runs)

    whole = rows[2].flops
    assert whole == rows[2].cost.flops_per_token * 4 * 16 * 32
    assert [row.flops / whole for row in rows[:3]] == [0, 0.75, 1]
    seconds = 4 * 16 * 32 / 50
    assert [row.hours for row in rows[:3]] == pytest.approx(
        [0, 0.75 * seconds / 3600, seconds / 3600]
    )
    assert rows[3].cost.num_params > rows[2].cost.num_params
    assert rows[3].hours / rows[2].hours == pytest.approx(rows[3].flops / whole)
    assert costs.total(rows).startswith("4 runs: 1 done, 1 dead, 2 waiting; ")


def test_a_dry_run_lists_the_runs_and_starts_nothing(tmp_path, capsys):
    launcher = Fake()
    assert launch(launcher, "configs/quickstart.py", tmp_path / "runs", dry_run=True) == 0

    out = capsys.readouterr().out
    assert out.count("waiting") == 9 + 1 and "would start 9" in out
    assert "optimizer.peak_lr=0.02 seed=2" in out and "data.seq_len" not in out
    assert launcher.told is None and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("filename", "num_params"),
    [
        ("configs/quickstart.py:debug", 24_000),
        ("configs/gpt2.py:size=xl", 1_557_611_200),
        ("configs/bert.py:size=base", 110_106_428),
        ("configs/t5.py:size=small,objective=ul2", 76_961_152),
        ("configs/llama.py:size=llama3-70b,objective=mixture", 70_553_706_496),
    ],
)
def test_a_cost_needs_no_text_no_kernel_and_no_devices(filename, num_params, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it reads text")

    monkeypatch.setattr(preparation, "prepare", refuse)
    elsewhere = {"model.attention": "cudnn", "parallel.fsdp": 64, "parallel.tensor": 2}
    (run,) = plan({"seed": 1}, base=Base(filename, elsewhere))

    cost = costs.cost_of(run.config)

    assert cost.num_params == num_params
    # For a decoder, 6 a parameter and attention's share; an encoder-decoder's see half the tokens.
    assert 2.5 < cost.flops_per_token / num_params < 12


def test_a_cost_is_what_a_run_counts(corpus):
    config = quickstart.get_config("debug")
    config.data.update(corpus, source="text")
    config.tokenizer = {"kind": "bytes"}
    parts = pretraining.make_parts(config)
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    objective = pretraining.make_objective(config.objective, parts.model, prepared)

    counted = pretraining.flops_per_token(parts, objective, pretraining.abstract_state(parts), 64)

    assert costs.cost_of(config).flops_per_token == counted
