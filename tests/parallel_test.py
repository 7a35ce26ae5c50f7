"""The same losses on any mesh, and checkpoints that go from any to any other."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.meshes import MESHES, NUM_STEPS


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_every_mesh_gives_the_same_losses(family, corpus, tmp_path):
    command = [sys.executable, "-m", "tests.meshes", family, str(tmp_path), json.dumps(corpus)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    losses = json.loads(done.stdout.splitlines()[-1])

    assert len(losses) == 2 * len(MESHES)
    wanted = losses.pop("one device")
    assert len(set(wanted)) == NUM_STEPS  # It learns.
    for name, found in losses.items():
        np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=name)
