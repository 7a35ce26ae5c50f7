import json
import os
import subprocess
import sys

import pytest

from lm.results.__main__ import main
from tests.run_folders import config, losses, write, write_sweep

VALUES = {(0.1, 0): 1.0, (0.1, 1): 1.1, (0.3, 0): 2.0, (0.3, 1): None}


def test_a_folder_alone_gives_states_and_averages(tmp_path, capsys):
    write_sweep(tmp_path / "my runs", VALUES)
    write(tmp_path / "my runs/late", config(7), losses(3.0), done=False, tail='{"step')

    assert main([str(tmp_path / "my runs")]) == 0

    out, err = capsys.readouterr()
    assert "5 runs: 4 done, 1 dead" in out and "dead at 1" in out
    assert "2 configs; last values of finished runs, mean over seed" in out
    assert "1 NaN: lr0.3-s1" in out and "1 not done: late" in out
    assert err == "warning: last line of metrics.jsonl half-written and ignored: late (1 in all)\n"


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ([], {"folder", "counts", "runs", "configs"}),
        (["status"], {"folder", "counts", "runs"}),
        (["table"], {"folder", "counts", "configs"}),
        (["best", "--at=best", "--metric=eval/loss"], {"metric", "mode", "at", "best", "second"}),
    ],
)
def test_programs_get_one_object_of_strict_json(tmp_path, capsys, command, keys):
    write_sweep(tmp_path, VALUES)

    assert main([*command, str(tmp_path), "--json"]) == 0

    out, err = capsys.readouterr()
    strict = {"parse_constant": lambda name: pytest.fail(f"{name} is no JSON")}
    assert json.loads(out, **strict).keys() >= keys | {"warnings"} and not err
    assert out.count("\n") == 1


def test_two_runs_are_compared(tmp_path, capsys):
    write_sweep(tmp_path, VALUES)

    assert main(["compare", str(tmp_path / "lr0.1-s0"), str(tmp_path / "lr0.3-s1"), "--json"]) == 0

    data = json.loads(capsys.readouterr().out)
    assert data["config"] == {"seed": [0, 1], "optimizer.peak_lr": [0.1, 0.3]}
    assert data["metrics"] == {"eval/loss": [1.0, None]}


def test_before_anything_is_logged_there_are_states(tmp_path, capsys):
    write(tmp_path / "run", config(), [], done=False)

    assert main([str(tmp_path)]) == 0

    assert "1 run: 1 dead" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/none"], "none is not a folder"),
        (["{root}/empty"], "holds no run"),
        (["{root}/bare"], "bare has metrics.jsonl and no config.json"),
        (["{root}", "--metric=eval/lost"], "did you mean eval/loss?"),
        (["{root}", "--over=sed"], "did you mean seed?"),
        (["table", "{root}", "--at=best", "--metric=eval/mine"], "say --mode=min"),
        (["best", "{root}", "--metric=eval/loss,eval/mine"], "best goes by one metric, not 2"),
        (["compare", "{root}", "{root}/lr0.1-s0"], "name the folder of one"),
        (["compare", "{root}/lr0.1-s0"], "required: b"),
        (["status", "{root}", "--metrik=x"], "--metrik=x"),
        (["status", "{root}", "--mode=up"], "invalid choice: 'up'"),
        ([], "required: folder"),
        (["plot", "{root}", "--output={root}/mine/config.json"], ": File exists"),
        (["report", "{root}", "--output={root}"], ": Is a directory"),
        (["report", "{root}", "--output={root}/mine/config.json"], "is a file and no page"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_else(tmp_path, capsys, arguments, message):
    write_sweep(tmp_path, {(0.1, 0): 1.0, (0.3, 0): 2.0})
    write(tmp_path / "mine", config(), losses(1.0, name="eval/mine"))
    (tmp_path / "empty").mkdir()
    (write(tmp_path / "bare", config(), []) / "config.json").unlink()

    assert main([argument.format(root=tmp_path) for argument in arguments]) == 2

    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_folder_is_read_without_what_trains_or_draws(tmp_path):
    write(tmp_path / "run", config(), losses(1.0))
    heavy = ("jax", "flax", "matplotlib", "plotly", "scipy")
    program = (
        "import sys; from lm.results.__main__ import main; code = main(sys.argv[1:]); "
        f"sys.exit(code or str([name for name in {heavy} if name in sys.modules]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )

    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_a_reader_may_leave_early(tmp_path, flag):
    write_sweep(tmp_path, VALUES)
    reader, writer = os.pipe()
    os.close(reader)

    command = [sys.executable, "-m", "lm.results", str(tmp_path), *flag]
    env = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=env)

    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_others_named_reorders_no_terminal_and_tells_no_password(tmp_path, capsys):
    url = "https://me:secret@host/a"
    for seed, name in enumerate(("x", f"\u202e{url}\x1b[2J\u2066")):
        folder = write(tmp_path / f"{seed}\u2067", config(seed, name=name), losses(1.0))
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(b"\xff\n" * 9)

    for command in ("overview", "best", "compare"):
        folders = sorted(map(str, tmp_path.iterdir())) if command == "compare" else [str(tmp_path)]
        main([command, *folders])
    printed = "".join(capsys.readouterr())

    assert "\\u202ehttps://<redacted>@host/a\\u001b[2J\\u2066" in printed
    assert not set("\u202e\u2066\u2067\x1b") & set(printed)
    assert "secret" not in printed
    assert printed.count("9 lines are broken and ignored, the first is 4") == 6


@pytest.mark.parametrize("command", ["plot", "report"])
def test_what_cannot_be_drawn_is_no_error(tmp_path, command):
    write(tmp_path / "a", config(x="\ud800"), losses(1e308, -1e308, 1.0))
    write(tmp_path / "b", config(x="y"), losses(1.0, 1e149, 1.0, name="\ud800"))

    for metric in ("eval/loss", "\ud800"):
        assert main([command, str(tmp_path), f"--metric={metric}"]) == 0
