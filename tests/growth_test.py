"""What is done for many runs or examples grows no faster than their number.

Work is counted in bytecode instructions of our own code: the same on every machine, whatever else
runs on it. Loops inside of C are not seen, unless they call it.
"""

import io
import pathlib
import sys

import ml_collections
import numpy as np
import pytest
import rich.console

from experiments.sweeps import plan, status_table
from lm.data.examples import RowLayout, evaluation_batches
from lm.results import curves, groups, views
from lm.results.reading import RunRecord, Series
from lm.run.status import State


def num_instructions(call):
    """Counts what this thread executes of Python, installed packages left out."""
    num = 0

    def trace(frame, event, _):
        nonlocal num
        if "site-packages" in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        num += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return num


def run_sweep(num):
    """Shows runs on a terminal that start and end one after the other."""
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80, height=12)
    board = status_table.StatusTable(console, {"waiting": num})
    config = ml_collections.ConfigDict()
    for i in range(num):
        run = plan.PlannedRun(f"{i:05}", pathlib.Path("no-such-folder"), {"seed": i}, config, ())
        board.started(run, "core 0")
        board._next_seconds = 0.0  # As if a second had passed.
        board.read()
        board.ended(run, "done", "")


def plan_sweep(num):
    base, seeds = plan.Base("configs/quickstart.py", {}), [{"seed": i} for i in range(num)]
    plan.plan(base, seeds, pathlib.Path("runs"))


def show_results(num):
    """Reads the results of as many seeds of one config, half of which are not done."""
    series = {"eval/loss": Series(np.arange(2), np.ones(2))}
    states = [State(kind, 1, 2, 0) for kind in ("done", "dead")]
    runs = [
        RunRecord(f"{i:05}", {"seed": i}, states[i % 2], series, None, None, False)
        for i in range(num)
    ]
    choice = views.Choice(("eval/loss",), "last", None, ("seed",), False)
    views.status(runs, choice)
    groups.grouped(runs, choice.over)
    curves.choose(runs, choice).curves("eval/loss", False)


def evaluate(num):
    rng = np.random.default_rng(0)
    examples = [{"tokens_BL": np.zeros(n, int)} for n in rng.integers(1, 60, num)]
    for _ in evaluation_batches(examples, layout=RowLayout({}), multiple=8, batch_size=16):
        pass


@pytest.mark.parametrize(
    ("work", "few"),
    [(run_sweep, 16), (plan_sweep, 2), (show_results, 32), (evaluate, 64)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_work_grows_no_faster_than_the_number(work, few):
    work(few)  # What is done but once, as imports are.

    of_few, of_many = (num_instructions(lambda num=num: work(num)) for num in (few, 8 * few))

    assert of_many < 1.1 * 8 * of_few
