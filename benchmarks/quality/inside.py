r"""Looks into two models while they learn: writes docs/results/inside.{json,png,md}.

Command:   python -m benchmarks.quality.inside runs/inside
Hardware:  2 CPU cores; the page says for how long.

The quickstart keeps a checkpoint every ten steps, `configs/grokking.py` every hundred. Of the first
each head's copying is scored (`lm.interpret.induction`); of the second, sums are patched into
others. Runs that are there are not trained again.

Dimension key: P pairs of sums, V labels.
"""

import functools
import itertools
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.quality import inside_page as page
from benchmarks.results import processor, rounded
from lm.formats.fields import Record
from lm.interpret import induction
from lm.interpret import subject as subject_lib
from lm.interpret.capture import Patch
from lm.interpret.subject import Subject, run_model

_MODULUS = 89  # As the config has it.
_NUM_PAIRS = 256


def main(root: pathlib.Path) -> None:
    """Trains what is not there, looks into it, and writes the page."""
    for name, command in page.commands(str(root)).items():
        if not (root / name / "checkpoints" / str(page.LAST_STEP[name])).exists():
            subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    page.write(
        {
            "hardware": f"2 cores of {processor()}",
            "num_pairs": _NUM_PAIRS,
            "induction": copying(root / "quickstart"),
            "grokking": [sums(root / "grokking", step) for step in page.GROKKING_STEPS],
        }
    )


def copying(run: pathlib.Path) -> dict[str, Any]:
    """Scores the heads of each checkpoint."""
    found: dict[str, Any] = {name: [] for name in ("steps", *induction.Induction._fields)}
    for step, one in _checkpoints(run):
        made, _ = induction.induction(one, num_sequences=32, sequence_len=32, seed=0)
        found["steps"].append(step)
        for name, value in made._asdict().items():
            found[name].append(_plain(value))
    return found


def sums(run: pathlib.Path, step: int) -> dict[str, Any]:
    """Patches sums of one checkpoint into others whose first numbers differ.

    Returns:
      Its accuracy on the clean sums, the differences of logits of both, and by site which share of
      what is between them each patch brings back.
    """
    ((_, one),) = _checkpoints(run, step)
    rng = np.random.default_rng(0)
    all_sums = np.array(list(itertools.product(range(_MODULUS), repeat=2)))
    clean = rng.permutation(all_sums)[:_NUM_PAIRS]
    corrupted = clean.copy()
    corrupted[:, 0] = (clean[:, 0] + rng.integers(1, _MODULUS, len(clean))) % _MODULUS
    ids_PV = _label_ids(one)[np.stack([x.sum(axis=1) % _MODULUS for x in (clean, corrupted)], 1)]

    def difference(logits_PV):
        right, wrong = np.take_along_axis(np.asarray(logits_PV), ids_PV, axis=1).T
        return float((right - wrong).mean())

    inputs = [_inputs(one, numbers) for numbers in (clean, corrupted)]
    logits_PV, seen = _run(one.model, page.SITES, one.params, inputs[0], {})
    best = difference(logits_PV)
    right = np.asarray(logits_PV).argmax(axis=-1) == ids_PV[:, 0]
    least = difference(_run(one.model, (), one.params, inputs[1], {})[0])
    found = {"step": step, "accuracy": rounded(float(right.mean())), "patches": {}}
    found |= {"clean": rounded(best), "corrupted": rounded(least)}
    for site in page.SITES:
        value = seen[site]
        dim = 3 if value.ndim == 5 else 2  # Heads, or else positions.
        rows = np.zeros((value.shape[0], value.shape[dim]))
        for n, j in np.ndindex(rows.shape):
            mask = np.zeros([x if i in (0, dim) else 1 for i, x in enumerate(value.shape)], bool)
            np.moveaxis(mask, dim, 1)[n, j] = True
            patches = {site: Patch(mask=jnp.asarray(mask), value=value)}
            logits_PV, _ = _run(one.model, (), one.params, inputs[1], patches)
            rows[n, j] = (difference(logits_PV) - least) / (best - least)
        found["patches"][site] = _plain(rows)
    return found


def _checkpoints(run: pathlib.Path, only: int | None = None) -> Iterator[tuple[int, Subject]]:
    """Opens checkpoints as if each were the newest of its run."""
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    for step in steps if only is None else [only]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            (folder / "checkpoints").mkdir()
            for name in ("config.json", "tokenizer", f"checkpoints/{step}"):
                (folder / name).symlink_to((run / name).resolve())
            yield step, subject_lib.open_subject(folder)


def _inputs(one: Subject, numbers: np.ndarray) -> Any:
    symbol = lambda number: chr(ord("!") + number)
    texts = [
        subject_lib.read(one, Record("sum", {"text": symbol(a) + symbol(b)}), is_whole=False)[0]
        for a, b in numbers.tolist()
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *(text.inputs for text in texts))


def _label_ids(one: Subject) -> np.ndarray:
    labels = one.run.config["task"]["labels"]
    return np.array([labels.index(chr(ord("!") + number)) for number in range(_MODULUS)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(model, keep, params, inputs, patches):
    logits_P1V, seen = run_model(model, params, inputs, keep=keep, patches=patches)
    return logits_P1V[:, 0], seen


def _plain(value: Any) -> Any:
    return np.vectorize(rounded)(value).tolist()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
