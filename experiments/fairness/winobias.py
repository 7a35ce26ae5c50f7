"""Asks a model of language whom the pronouns of WinoBias mean."""

import pathlib

from jax.sharding import Mesh

from experiments.fairness.measured import Measured, beside_random, cell
from experiments.fairness.winogender import chosen
from lm.fairness import likelihoods, winobias
from lm.loading import run as run_lib
from lm.results.forest_plot import Share
from lm.system import safe_text

_MEASURES = ("pro", "anti", "gap")


def measure(folder: pathlib.Path, mesh: Mesh, data: str, *, anti: str, batch_size: int) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: sentences that are none, or a model that gives no likelihood.
    """
    read = winobias.read(data, anti)
    loaded = run_lib.load(folder, mesh=mesh)
    scorer = likelihoods.make_scorer(loaded, batch_size)
    num = sum(len(side) for both in read.values() for side in both)
    print(f"{folder} at step {loaded.step}: {scorer.kind}s of {num:,} sentences", flush=True)

    def compared(params):
        answers = {
            name: [chosen(scorer, params, side) for side in both] for name, both in read.items()
        }
        return winobias.compare(read, answers)

    found = beside_random(scorer, compared)
    rows = {name: (of, 7 * (i > 0)) for i, (name, of) in enumerate(found.items())}
    rows |= {name: (of, 2) for name, of in found["this model"]["by_file"].items()}
    print("\n" + "".join(f"{name:>28}" for name in ("accuracy, pro", "accuracy, anti", "gap")))
    for name, (of, _) in rows.items():
        cells = "".join(f"{cell(of[measure]):>28}" for measure in _MEASURES)
        print(f"{cells}  {safe_text.one_line(name)}")
    panels = {
        measure: {
            name: Share(of[measure]["value"], of[measure]["interval"], group)
            for name, (of, group) in rows.items()
        }
        for measure in _MEASURES
    }
    contents = dict(step=loaded.step, likelihood=scorer.kind, results=found)
    return Measured(contents, panels, line=None)
