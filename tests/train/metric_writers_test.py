import io
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import rich.console
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from lm.errors import UserError
from lm.run.status import DONE
from lm.system import faults
from lm.train import metric_writers
from tests.file_limits import file_limit

RECORD = {"train/loss": 3.25, "train/tokens_per_second": 1234.0, "train/mfu": float("nan")}


def write(workdir, steps, from_step=0):
    with metric_writers.opened(
        workdir, step=from_step, num_steps=9, config={}, wandb_project=""
    ) as writers:
        for step in steps:
            writers.scalars(step, {"train/loss": step / 3})
            writers.text(step, "sample", "def f(): ...")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def logged(workdir):
    return [line for line in lines(workdir) if "run/num_steps" not in line]


def test_numbers_survive_to_the_bit_and_others_are_null(tmp_path):
    with metric_writers.opened(
        tmp_path, step=0, num_steps=9, config={}, wandb_project=""
    ) as writers:
        loss = float(np.float32(0.1))
        writers.scalars(1, {"train/loss": loss, "a": float("nan"), "b": float("inf")})

    assert logged(tmp_path) == [{"step": 1, "train/loss": loss, "a": None, "b": None}]


def test_a_restored_run_takes_back_what_came_after_its_checkpoint(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')  # Killed here.

    write(tmp_path, [3, 4, 5], from_step=2)

    assert [record["step"] for record in logged(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "line", [b'{"step": 1, "train/l\xffss": 2.0}', b"[" * 100_000, b'{"step": 1, "lo', b"5", b"{}"]
)
def test_a_damaged_line_is_taken_out_and_nothing_else(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 0, "run/num_steps": 9}\n', b'{"step": 2, "run/done": 1}\n'
    path.write_bytes(whole[0] + line + b"\n" + whole[1])

    metric_writers.JsonLines(path, 2, 9).close()

    assert path.read_bytes() == b"".join(whole)


def test_a_line_that_lacks_but_its_end_gets_it(tmp_path):
    write(tmp_path, [1])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}')  # Killed here.

    write(tmp_path, [3], from_step=2)

    assert [record["step"] for record in logged(tmp_path)] == [1, 2, 3]


def test_every_start_says_where_the_run_will_end_and_the_last_line_that_it_has(tmp_path):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [3, 9], from_step=2)
    metric_writers.mark(tmp_path, DONE, 9)
    started = lines(tmp_path)
    write(tmp_path, [], from_step=9)  # The same command, of a run that is done.
    metric_writers.mark(tmp_path, DONE, 9)

    marks = [record for record in started if "train/loss" not in record]
    assert marks == [
        {"step": 0, "run/num_steps": 9},
        {"step": 2, "run/num_steps": 9},
        {"step": 9, "run/done": 1},
    ]
    assert started[-1] == marks[-1] and lines(tmp_path) == started


def events(workdir):
    """The events of all TensorBoard files: a length, two checksums and a protocol buffer each."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            head, length = data[:8], int.from_bytes(data[:8], "little")
            head_sum, body, body_sum = data[8:12], data[12 : 12 + length], data[12 + length :][:4]
            assert int.from_bytes(head_sum, "little") == masked_crc32c(head)
            assert int.from_bytes(body_sum, "little") == masked_crc32c(body)
            yield event_pb2.Event.FromString(body)
            data = data[16 + length :]


def test_tensorboard_gets_scalars_and_text(tmp_path):
    write(tmp_path, [1, 2])

    values = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    assert [(s, v.simple_value) for s, v in values if v.tag == "train/loss"] == [
        (1, pytest.approx(1 / 3)),
        (2, pytest.approx(2 / 3)),
    ]
    assert [(s, v) for s, v in values if "sample" in v.tag] == [
        (step, summary.text("sample", "```\ndef f(): ...\n```").value[0]) for step in (1, 2)
    ]


def test_plain_output_is_a_line_a_record(tmp_path, capsys):
    write(tmp_path, [1, 2])

    shown = capsys.readouterr().out
    assert "step      1  loss 0.3333\n" in shown
    assert "0:00:00 left" in shown


def test_a_terminal_shows_progress_and_scrolls_evaluations():
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=100, color_system=None)
    terminal = metric_writers.Terminal(console, step=0, num_steps=9)
    terminal.scalars(1, RECORD)
    terminal.scalars(4, {"eval/loss": 2.5})
    terminal.close()

    assert "step 1/9" in screen.getvalue()
    assert "loss 3.2500  1,234 tokens/s" in screen.getvalue()
    assert "step 4  eval/loss 2.5000" in screen.getvalue()
    assert "nan" not in screen.getvalue()


class FakeWandb(types.ModuleType):
    """What this project uses of wandb, remembering what it was told."""

    def __init__(self):
        super().__init__("wandb")
        self.util = types.SimpleNamespace(generate_id=lambda: f"id{len(self.inits)}")
        self.inits, self.logged = [], []

    def init(self, **kwargs):
        self.inits.append(kwargs)
        log = lambda values, step: self.logged.append((step, values))
        return types.SimpleNamespace(log=log, finish=lambda: None)


def test_weights_and_biases_keeps_its_run_across_restarts(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        with metric_writers.opened(
            tmp_path, step=0, num_steps=9, config={"seed": 1}, wandb_project="p"
        ) as writers:
            writers.scalars(1, {"train/loss": 2.0})

    assert [init["id"] for init in fake.inits] == ["id0", "id0"]
    assert fake.inits[0]["config"] == {"seed": 1}
    assert fake.inits[0]["reinit"] == "create_new"
    assert fake.logged == [(1, {"train/loss": 2.0})] * 2


def test_weights_and_biases_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)

    metric_writers.check_wandb("")
    with pytest.raises(UserError, match=r"log.wandb_project='p'.*pip install wandb"):
        metric_writers.check_wandb("p")


def test_a_log_that_may_not_grow_is_named_with_the_remedy(tmp_path):
    write(tmp_path, [1, 2])
    size = (tmp_path / "metrics.jsonl").stat().st_size

    with pytest.raises(OSError) as caught, file_limit(size + 90):
        write(tmp_path, range(3, 9), from_step=2)

    line = faults.one_line(caught.value)
    assert line.startswith(f"{tmp_path}/") and "ulimit -f" in line
    write(tmp_path, [3], from_step=2)
    assert [record["step"] for record in logged(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "x" * 5_000])
def test_an_event_file_that_may_not_grow_is_named_at_once_and_only_once(tmp_path, text):
    """Of a program that ends by it, so that threads and what runs at the exit are seen, too."""
    program = (
        "import sys, pathlib\n"
        "from lm.system import faults\n"
        "from lm.train import metric_writers\n"
        "from tests.file_limits import file_limit\n"
        "writer = metric_writers.TensorBoard(pathlib.Path(sys.argv[1]), 0)\n"
        "with file_limit(200):\n"
        "    try:\n"
        "        for step in range(50):\n"
        "            if sys.argv[2]: writer.text(step, 'sample', sys.argv[2])\n"
        "            writer.scalars(step, {f'train/{i}': 1.0 for i in range(20)})\n"
        "    except OSError as error:\n"
        "        print(step, faults.one_line(error))\n"
        "    sys.exit(5)\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "tensorboard", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)

    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout.startswith(f"0 {tmp_path}/tensorboard: ") and done.stdout.count("\n") == 1


def test_a_writer_that_cannot_be_closed_leaves_none_open():
    closed = []
    fail = types.SimpleNamespace(close=lambda: 1 / 0)
    other = types.SimpleNamespace(close=lambda: closed.append(1))

    with pytest.raises(ZeroDivisionError):
        metric_writers.Writers([other, fail, other]).close()

    assert closed == [1, 1]


def test_tensorboard_drops_what_a_restored_run_logs_again(tmp_path):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [2, 3], from_step=1)

    starts = [e for e in events(tmp_path) if e.session_log.status == event_pb2.SessionLog.START]
    assert [e.step for e in starts] == [1, 2]
