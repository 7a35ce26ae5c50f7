"""The program as people use it: one process after another, killed and started again."""

import json
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import launch as launch_module
from configs import evaluate as evaluate_config
from configs import generate as generate_config
from configs import quickstart
from experiments import evaluate, generate, pretrain
from experiments.wiring import pretraining
from experiments.wiring.variants import with_num_steps
from lm.corpus.batches import Batches
from lm.errors import UserError
from lm.loading import language_model
from lm.models import factory
from lm.run.status import state_of
from lm.train import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--config=configs/quickstart.py:debug",
    "--config.tokenizer.vocab_size=512",
    "--config.model.vocab_size=512",
    "--config.data.source=text",
    "--config.model.dropout=0.1",
    "--config.optimizer.ema_decay=0.9",
]


@pytest.fixture(scope="session")
def text(corpus):
    """The corpus as arguments."""
    return [f"--config.data.{kind}={files}" for kind, files in corpus.items()]


def command(*args):
    return [sys.executable, "launch.py", *map(str, args)]


def launch(*args, check=True):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, done.stderr
    return done


LONG = [
    "--config.train.num_steps=20",
    "--config.checkpoint.every_steps=4",
    "--config.eval.every_steps=4",
]


@pytest.fixture(scope="session")
def uninterrupted(text, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    launch(*TINY, *text, *LONG, f"--workdir={workdir}")
    return workdir


def logged(workdir):
    """Every metric but those that depend on the clock, without the marks of starts and ends."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timed = ("tokens_per_second", "mfu", "step_seconds", "data_wait", "compile", "memory_bytes")
    return [
        {k: v for k, v in json.loads(line).items() if not any(t in k for t in timed)}
        for line in lines
        if '"run/' not in line
    ]


def saved_arrays(workdir, step):
    """Every array of a checkpoint, read without knowing what it is."""
    import orbax.checkpoint as ocp

    path = workdir / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_a_run_that_was_interrupted_ends_with_the_same_bits(uninterrupted, text, tmp_path, signum):
    args = [*TINY, *text, *LONG, f"--workdir={tmp_path}/run"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    saved = tmp_path / "run" / "checkpoints" / "4" / "manifest.json"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    process = subprocess.Popen(
        command(*args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.close()  # Nobody reads what it prints, which ends no run.
    is_due = lambda: saved.exists() and '"step": 6,' in metrics.read_text()
    while process.poll() is None and not is_due():
        time.sleep(0.005)
    process.send_signal(signum)
    process.wait()
    interrupted_at = logged(tmp_path / "run")[-1]["step"]
    assert process.returncode == (75 if signum == signal.SIGTERM else -signal.SIGKILL)
    assert 6 <= interrupted_at < 20
    kind = "stopped" if signum == signal.SIGTERM else "dead"
    assert state_of(tmp_path / "run").kind == kind

    resumed = launch(*args)

    assert "continuing from step" in resumed.stdout
    assert logged(tmp_path / "run") == logged(uninterrupted)
    import jax

    jax.tree.map(
        np.testing.assert_array_equal,
        saved_arrays(tmp_path / "run", 20),
        saved_arrays(uninterrupted, 20),
    )


def test_a_second_process_is_kept_out_of_a_workdir_and_changes_nothing(text, tmp_path):
    args = [*TINY, *text, "--config.train.num_steps=5000", f"--workdir={tmp_path}/run"]
    first = subprocess.Popen(command(*args), cwd=ROOT, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while first.poll() is None and not metrics.exists():
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # So that whatever changes now is not its own.
    try:
        files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}

        second = launch(*args, check=False)

        assert second.returncode == 2
        holder = f"error: --workdir={tmp_path}/run is in use by process {first.pid} on "
        assert second.stderr.startswith(holder) and second.stderr.count("\n") == 1
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")} == files
    finally:
        first.kill()
        first.wait()


def test_a_finished_run_is_not_trained_again(uninterrupted, text):
    before = (uninterrupted / "metrics.jsonl").read_text()

    done = launch(*TINY, *text, *LONG, f"--workdir={uninterrupted}")

    assert (uninterrupted / "metrics.jsonl").read_text() == before
    assert "bits per byte" in done.stdout
    assert done.stdout.startswith("reading data\n")
    assert "\nreading the newest checkpoint\nalready done at step 20\n" in done.stdout
    assert "compiling" not in done.stdout


def test_a_workdir_of_another_config_is_left_alone(uninterrupted, text):
    files = sorted(uninterrupted.rglob("*"))

    done = launch(*TINY, *text, *LONG, "--config.seed=1", f"--workdir={uninterrupted}", check=False)

    assert done.returncode == 2
    assert re.fullmatch(r"error: .*seed is 0 there, 1 here.*\n", done.stderr), done.stderr
    assert sorted(uninterrupted.rglob("*")) == files


def test_evaluating_a_run_gives_the_loss_that_it_logged_without_what_it_learned_from(
    uninterrupted, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["train"] = f"{tmp_path}/gone/*.txt"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))

    done = launch(
        "--config=configs/evaluate.py",
        f"--config.checkpoint={tmp_path / 'run'}",
        "--config.data.batch_size=3",
    )

    printed = float(re.search(r"eval/loss ([\d.]+)", done.stdout)[1])
    (expected,) = [r["eval/loss"] for r in logged(uninterrupted) if r.get("eval/loss")][-1:]
    assert printed == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("named", "taken"), [("cudnn", "blocked"), ("einsum", "einsum")])
def test_a_run_of_another_machine_is_opened_with_a_kernel_of_this_one(
    named, taken, uninterrupted, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"].update(attention=named, dropout=0.0)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))

    assert language_model.load(tmp_path / "run").model.config.attention == taken


def test_evaluation_asks_for_a_kernel_that_takes_rows_as_its_mesh_cuts_them(
    uninterrupted, monkeypatch
):
    asked, choose = [], factory.choose_attention
    monkeypatch.setattr(
        factory,
        "choose_attention",
        lambda name, needs: asked.append(needs) or choose(name, needs),
    )
    config = evaluate_config.get_config()
    config.checkpoint = str(uninterrupted)
    config.parallel.update(data=1, sequence=2)

    evaluate.run(config, uninterrupted)

    assert [needs.sequence_parts for needs in asked] == [2]


def test_sampling_is_a_function_of_the_seed(uninterrupted, capsys):
    changes = dict(checkpoint=str(uninterrupted), prompt="def ", max_new_tokens=12, seed=3)
    args = [f"--config.{name}={value}" for name, value in changes.items()]
    first = launch("--config=configs/generate.py", *args).stdout
    capsys.readouterr()

    def here(seed):
        config = generate_config.get_config()
        config.update(changes | dict(seed=seed))
        generate.run(config, None)
        return capsys.readouterr().out

    again, other = here(3), here(4)

    assert first.startswith("def ")
    assert first == again != other


def test_training_goes_on_from_another_run(uninterrupted, text, tmp_path):
    launch(
        *TINY,
        *text,
        f"--config.init_from={uninterrupted}",
        "--config.optimizer.peak_lr=0.0",
        f"--workdir={tmp_path}/more",
    )

    start, end = (language_model.load(w).params for w in (uninterrupted, tmp_path / "more"))
    np.testing.assert_allclose(
        start["token_embedding"], end["token_embedding"], rtol=1e-5, atol=1e-7
    )


def test_the_quickstart_of_the_readme(text, tmp_path):
    readme = (ROOT / "README.md").read_text()
    (line,) = re.findall(r"^python3 -m venv .venv && .*$", readme, re.MULTILINE)
    program, *args = shlex.split(line.split("&&")[-1])
    assert (program, args) == (".venv/bin/python", ["launch.py"])

    done = launch(*TINY, *text, f"--workdir={tmp_path}/quickstart")

    last = done.stdout.splitlines()[-7:]
    assert re.search(r"bits per byte +\d\.\d+ +this model", "\n".join(last))
    assert any("gzip -9" in line for line in last)
    assert any("xz -9" in line for line in last)
    assert any(f"{tmp_path}/quickstart" in line for line in last)
    assert any("configs/generate.py" in line for line in last)


COMMAND_LINE = {
    "an unknown key": (["--config.model.num_layer=3"], "num_layers"),
    "a wrong type": (["--config.train.num_steps=many"], "num_steps=many must be a whole number"),
    "a fraction for a count": (["--config.train.num_steps=2.5"], "=2.5 must be a whole number"),
    "no rate": (["--config.optimizer.peak_lr=x"], "peak_lr=x must be a number"),
    "no truth": (["--config.model.scan_layers=maybe"], "=maybe must be true or false"),
    "no such config": (["--config=configs/none.py"], "configs/none.py"),
    "an unknown argument": (["--config=configs/quickstart.py:size=9"], "size"),
    "an unknown flag": (["--workdirr=x"], "workdir"),
    "a word": (["train"], "train"),
    "an unknown experiment": (["--config.experiment=pretrian"], "pretrain"),
    "another experiment": (["--config.experiment=predict"], "take --config=configs/predict.py"),
    "no key": (["--config.=3"], "--config.=3: '' is no key"),
    "a key of a number": (["--config.train.num_steps.x=3"], "with no key 'x'"),
    "a key of a text": (["--config.data.train.x=3"], "data.train='' is a value"),
    "labels that are no texts": (
        ["--config=configs/classify.py:debug", "--config.task.labels=(1,2)"],
        "task.labels=(1, 2) must hold texts",
    ),
    "help on nothing": (["--help_config"], "--help_config=warmup"),
    "half a range": (["--profile=10"], "FIRST:LAST"),
    "a file for a folder": (["--workdir=launch.py/run"], "launch.py is a file"),
    "a check of what cannot run": (["--verify", "--config.optimizer.layer_decay=9.0"], "=9.0"),
    "a check by several": (["--verify", "--coordinator=127.0.0.1:9"], "--coordinator"),
    "an unknown launcher": (["--launcher=slurmy"], "slurmy"),
    "an unknown key of a launcher": (["--sweep", "--launcher.num_paralel=2"], "num_parallel"),
    "no such sweep": (["--sweep=configs/sweeps/none.py"], "configs/sweeps/none.py"),
    "a key that a sweep sets too": (["--sweep", "--config.seed=3"], "--config.seed"),
    "a batch of many runs": (["--sweep", "--show_batch=1"], "--show_batch"),
    "a sweep without a file": (["--sweep="], "--sweep="),
    "one process of a sweep": (["--sweep", "--process_id=0"], "--process_id"),
    "devices without a dry run": (["--devices=8"], "--devices=8"),
    "a dry run of a sample": (["--config=configs/generate.py", "--dry_run"], "--dry_run"),
    "two things at once": (["--dry_run", "--profile=2:3"], "--dry_run and --profile"),
    "no time to connect": (
        ["--connect_seconds=0", "--coordinator=127.0.0.1:9", "--num_processes=2", "--process_id=1"],
        "--connect_seconds=0",
    ),
}


def test_help_lists_the_flags(capsys):
    for flag in ("--help", "-h"):
        assert launch_module.main(["launch.py", flag]) == 0

        said = capsys.readouterr().out
        assert all(f"\n--{name}: " in said for name in ("workdir", "extend", "verify", "profile"))
        assert "configs/README.md" in said


def test_warnings_look_alike():
    program = (
        "import launch; launch.main(['launch.py', '--print_config'])\n"
        "from absl import logging; logging.warning('%s is not used', 'x')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.stderr == "warning: x is not used\n"


def test_ctrl_c_before_there_is_anything_to_save_is_one_line(tmp_path):
    args = [sys.executable, "launch.py", *TINY, f"--workdir={tmp_path}/run"]
    process = subprocess.Popen(
        [*args, "--config.data.source=python_stdlib"],
        cwd=ROOT,
        env=os.environ | {"LM_CACHE": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline().startswith("reading train")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert process.returncode == 130, errors
    done = r"(reading train: .*\n)?(training a .*\n)?"  # What came to its end before the signal.
    assert re.fullmatch(rf"{done}error: interrupted; [^\n]+\n", errors), errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["config", "launcher"])
def test_a_file_that_gives_no_config_is_named(flag, tmp_path):
    path = tmp_path / "forgotten.py"
    path.write_text("def get_config(name=None):\n    pass\n")

    done = launch(f"--{flag}={path}:local", check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"error: --{flag}: its get_config() must return a ConfigDict\n")


def test_a_mistake_is_one_line_even_where_it_quotes_several(tmp_path):
    folder = tmp_path / "two\nlines"

    done = launch("--config=configs/evaluate.py", f"--config.checkpoint={folder}", check=False)

    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr


# All commands by one process, which imports once what each would; each of them in a fork.
FORKS = """
import json, os, sys, traceback
import launch
from experiments import convert, coordinates, dry_run, evaluate, finetune, generate, harness
from experiments import predict, pretrain
from experiments.launchers import local, skypilot, slurm, tpu_vm, vmap
from experiments.sweeps import plan
from experiments.verify import verify
from lm.system import output

for folder, *args in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        for fd, name in (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), fd)
        sys.argv = ["launch.py", *args]
        sys.orig_argv = [sys.executable, *sys.argv]
        code = 1
        try:
            output.guard()
            code = launch.main(sys.argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """Of each command of `COMMAND_LINE`: its exit code, what it wrote to stderr, its workdir."""
    folders = {name: tmp_path_factory.mktemp("mistaken") for name in COMMAND_LINE}
    commands = [
        [str(folders[name]), f"--workdir={folders[name]}/run", *args]
        for name, (args, _) in COMMAND_LINE.items()
    ]
    program = [sys.executable, "-W", "ignore", "-c", FORKS, json.dumps(commands)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return {
        name: (int(code), (folders[name] / "stderr").read_text(), folders[name] / "run")
        for name, code in zip(COMMAND_LINE, done.stdout.split(), strict=True)
    }


@pytest.mark.parametrize("name", COMMAND_LINE)
def test_a_mistake_on_the_command_line_is_one_line(name, mistaken):
    code, said, workdir = mistaken[name]

    assert code == 2, said
    assert re.fullmatch(r"error: [^\n]+\n", said), said
    assert COMMAND_LINE[name][1] in said
    assert not workdir.exists()


CONFIG = {
    "an unknown model": ({"model.name": "gtp2"}, "model.name='gtp2'.*gpt2"),
    "an unknown source": ({"data.source": "python_stdlip"}, "python_stdlib"),
    "a glob that matches nothing": ({"data.train": "none/*.txt"}, "none/"),
    "rows beyond the positions": ({"data.seq_len": 99}, "data.seq_len=99.*model.max_len=64"),
    "a vocabulary beyond the model's": ({"model.vocab_size": 99}, "model.vocab_size=99"),
    "a batch that devices do not divide": (
        {"data.batch_size": 15},
        "data.batch_size.*multiple of 2",
    ),
    "micro-batches that do not divide": ({"train.accumulate_steps": 3}, "accumulate_steps=3"),
    "a mesh that is too big": ({"parallel.fsdp": 16}, "parallel.fsdp=16"),
    "more rows than there are": ({"data.batch_size": 80_000_000}, "data.batch_size=80000000"),
    "no steps": ({"train.num_steps": 0}, "train.num_steps=0"),
    "steps and epochs": ({"train.num_epochs": 2.0}, "num_steps=4 and train.num_epochs=2.0"),
    "a kernel that is not here": ({"model.attention": "cudnn"}, "model.attention='cudnn'"),
    "products that do not exist": ({"model.matmul": "fp4"}, "model.matmul='fp4'"),
    "an objective that does not exist": ({"objective.kind": "masked"}, "objective.kind='masked'"),
    "a rate that is no number": ({"optimizer.peak_lr": math.nan}, "optimizer.peak_lr=nan"),
    "a share above one": ({"loss.label_smoothing": 1.5}, "loss.label_smoothing=1.5"),
    "a log of no step": ({"log.every_steps": 0}, "log.every_steps=0"),
    "a model without width": ({"model.model_dim": 0}, "model.model_dim=0"),
    "a sample beyond the positions": ({"eval.sample_tokens": 64}, "eval.sample_tokens=64"),
    "a metric that does not exist": ({"checkpoint.best_metric": "loss"}, "choose eval/loss"),
    "no such run": ({"init_from": "no/run"}, "no/run"),
    "a best metric that is not there": (
        {"checkpoint.best_metric": "eval/loss", "checkpoint.every_steps": 3},
        "checkpoint.every_steps=3",
    ),
}


def tiny_config(corpus, **changes):
    config = quickstart.get_config("debug")
    config.data.update(corpus, source="text")
    config.tokenizer = {"kind": "bytes"}
    config.model.vocab_size = 259
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("name", CONFIG)
def test_a_config_that_cannot_work_is_refused_before_anything_is_written(name, corpus, tmp_path):
    changes, message = CONFIG[name]

    with pytest.raises(UserError, match=message) as caught:
        pretrain.run(tiny_config(corpus, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epochs", [0.0, 1.0])
def test_a_model_that_a_mesh_cannot_divide_is_refused_before_its_data_is_read(
    epochs, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretraining, "make_data", lambda *_: pytest.fail("read"))
    changes = {"parallel.data": 1, "parallel.fsdp": 2, "model.model_dim": 15}
    changes |= {"train.num_epochs": epochs, "train.num_steps": 0 if epochs else 4}

    with pytest.raises(UserError, match=r"model\.model_dim=15 .* parallel\.fsdp=2"):
        pretrain.run(tiny_config(corpus, **changes), tmp_path / "run")


def test_a_batch_may_be_said_by_device(corpus):
    config = tiny_config(corpus, **{"data.batch_size_per_device": 3})

    assert with_num_steps(config).data.batch_size == 3 * 2
    config.train.update(num_steps=0, num_epochs=1.0)
    epoch = with_num_steps(config)
    config.data.update(batch_size=3 * 2, batch_size_per_device=0)
    assert epoch.train.num_steps == with_num_steps(config).train.num_steps


@pytest.mark.parametrize("num_epochs", [0.5, 1.0, 3.0])
def test_epochs_are_just_as_many_steps_as_show_every_row(num_epochs, corpus):
    config = tiny_config(corpus, **{"train.num_steps": 0, "train.num_epochs": num_epochs})

    num_steps = with_num_steps(config).train.num_steps

    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    batches = Batches(prepared, "train", batch_size=16, seed=0)
    num_rows = prepared.splits["train"].num_rows
    seen = np.concatenate([batches.rows_at(step) for step in range(num_steps)])
    assert len(seen) - 16 < num_epochs * num_rows <= len(seen)
    if num_epochs >= 1:
        assert np.bincount(seen, minlength=num_rows).min() == num_epochs
    assert config.train.num_steps == 0


def test_a_run_started_from_another_needs_its_tokenizer(uninterrupted, corpus, tmp_path):
    config = tiny_config(corpus, init_from=str(uninterrupted))
    config.model.update(vocab_size=512, dropout=0.1)

    with pytest.raises(UserError, match=r"tokenizer/sentencepiece\.model"):
        pretrain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_text_has_changed_does_not_go_on(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("all work and no play " * 200)
    corpus = {name: f"{tmp_path}/{name}.txt" for name in ("train", "validation")}
    config = tiny_config(corpus, **{"train.num_steps": 2, "eval.sample_tokens": 0})
    pretrain.run(config, tmp_path / "run")
    files = sorted((tmp_path / "run").rglob("*"))
    (tmp_path / "train.txt").write_text("makes Jack a dull boy " * 200)

    with pytest.raises(UserError, match="other data"):
        pretrain.run(config, tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == files


def test_steps_to_trace_that_the_run_does_not_have_are_refused(corpus, tmp_path):
    with pytest.raises(UserError, match=r"--profile=3:9.*1 to 4"):
        pretrain.run(tiny_config(corpus), tmp_path / "run", profile_steps=(3, 9))
    assert not (tmp_path / "run").exists()


def test_losses_that_are_not_finite_are_skipped_counted_and_end_the_run(corpus, tmp_path):
    config = tiny_config(
        corpus, **{"optimizer.clip_norm": 0.0, "train.num_steps": 6, "train.max_skipped": 3}
    )
    config.loss.z_loss = 1e38

    with pytest.raises(UserError, match="stopped at step 3"):
        pretrain.run(config, tmp_path / "run")

    skipped = [json.loads(x) for x in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert state_of(tmp_path / "run").kind == "failed"
    assert [record["step"] for record in skipped] == [1, 2, 3]
    assert all(len(record["rows"]) == 16 for record in skipped)
    counts = [r["train/skipped"] for r in logged(tmp_path / "run") if "train/skipped" in r]
    assert counts == [1, 1]
    assert checkpoints.restore_params(tmp_path / "run" / "checkpoints")[0] == 2
