"""What is answered from flags alone is answered at once."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Each takes a good part of a second to import, or several.
HEAVY = ("jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "scipy", "matplotlib")
HEAVY += ("plotly", "transformers", "torch", "tokenizers", "sentencepiece", "jinja2", "rich")


@pytest.mark.parametrize(
    "arguments",
    [None, "--print_config", "--help", "--help_config=peak_lr", "--no_such_flag", "--config.sed=1"],
)
def test_what_trains_nothing_imports_nothing_that_trains(arguments):
    program = (
        "import json, sys, launch\n"
        f"arguments, heavy = {arguments!r}, {HEAVY!r}\n"
        "if arguments: launch.main(['launch.py', arguments])\n"
        "print()\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
