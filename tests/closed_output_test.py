"""`python launch.py ... | head -1`: whoever reads what is printed goes away at once."""

import pathlib
import subprocess
import sys

from lm.run.status import state_of

ROOT = pathlib.Path(__file__).parent.parent
# Each experiment in a process of its own, which prints a lot and then returns 5.
EXPERIMENTS = """
import os, sys
import launch
from experiments import convert, evaluate, generate, predict, pretrain
from lm.system import output

def printing(config, workdir, **settings):
    for _ in range(10_000):
        print("x" * 100)
    return 5

for module in (convert, evaluate, generate, predict, pretrain):
    module.run = printing
for name in sys.argv[1:]:
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(reader)
        os.dup2(writer, 1)
        output.guard()
        os._exit(launch.main(["launch.py", f"--config=configs/{name}.py"]))
    os.close(reader)
    os.close(writer)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_what_is_printed_for_its_reader_ends_quietly_and_all_else_goes_on():
    printed, others = ("generate", "predict"), ("convert", "evaluate", "quickstart")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXPERIMENTS, *printed, *others],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == dict.fromkeys(printed, "0") | dict.fromkeys(others, "5")
    assert done.stderr == ""


SWEEP = """
import sys
import launch
from experiments.sweeps import process_pool
from lm.system import output

output.guard()
process_pool.PROGRAM = (sys.executable, "-S", "tests/fake_run.py")
sys.exit(launch.main(["launch.py", *sys.argv[1:]]))
"""


def test_a_sweep_goes_on(tmp_path):
    (tmp_path / "sweep.py").write_text("def sweep():\n    return [{'seed': 0}, {'seed': 1}]\n")
    args = [f"--sweep={tmp_path}/sweep.py", f"--workdir={tmp_path}/runs"]
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, *args, "--launcher=local", "--launcher.num_parallel=1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()

    said = process.stderr.read()

    assert (process.wait(), said) == (0, "")
    runs = [path.parent for path in (tmp_path / "runs").glob("*/metrics.jsonl")]
    assert [state_of(run).kind for run in runs] == ["done", "done"]
