"""A sweep as people start it, with runs that train."""

import json

from tests.launch_test import TINY, launch, text  # noqa: F401

SWEEP = """
def sweep():
    return [{"optimizer.peak_lr": 3e-3, "seed": 1}, {"optimizer.peak_lr": 1e-2, "seed": 0}]
"""


def test_a_sweep_trains_each_of_its_runs_once(text, tmp_path):  # noqa: F811
    (tmp_path / "rates.py").write_text(SWEEP)
    folder = tmp_path / "runs"
    args = [*TINY, *text, "--config.train.num_steps=2", "--config.eval.sample_tokens=0"]
    args += [f"--sweep={tmp_path}/rates.py", f"--workdir={folder}"]

    assert launch(*args).stdout.splitlines()[-1] == "runs: 2 done"

    configs = {path: json.loads(path.read_text()) for path in folder.glob("*/config.json")}
    found = {(c["optimizer"]["peak_lr"], c["seed"]) for c in configs.values()}
    assert found == {(3e-3, 1), (1e-2, 0)}
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert launch(*args).stdout.splitlines()[-1] == "runs: 2 done"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
