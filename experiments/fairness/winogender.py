"""Asks a model of language whom the pronouns of Winogender mean."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from experiments.fairness.measured import Measured, beside_random, cell
from lm.fairness import likelihoods, winogender
from lm.loading import run as run_lib
from lm.models.parameters import Params
from lm.results.forest_plot import Share


def measure(folder: pathlib.Path, mesh: Mesh, data: str, *, batch_size: int, seed: int) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings. No number needs the seed.

    Raises:
      UserError: sentences that are none, or a model that gives no likelihood.
    """
    read = winogender.read(data)
    loaded = run_lib.load(folder, mesh=mesh)
    scorer = likelihoods.make_scorer(loaded, batch_size)
    print(f"{folder} at step {loaded.step}: {scorer.kind}s of {len(read):,} sentences", flush=True)
    compared = lambda params: winogender.compare(read, chosen(scorer, params, read))
    found = beside_random(scorer, compared)
    rows = {
        name: {f"accuracy, {gender}": x for gender, x in of["accuracy"].items()}
        | {"male - female": of["difference"], "same answer": of["same"]}
        for name, of in found.items()
    }
    columns = list(rows["this model"])
    print("\n" + "".join(f"{name:>28}" for name in columns))
    for name, of in rows.items():
        print("".join(f"{cell(of[column]):>28}" for column in columns) + f"  {name}")
    panels = {
        column: {
            name: Share(of[column]["value"], of[column]["interval"], 7 * (i > 0))
            for i, (name, of) in enumerate(rows.items())
        }
        for column in columns
    }
    contents = dict(step=loaded.step, likelihood=scorer.kind, results=found)
    return Measured(contents, panels, line=None)


def chosen(
    scorer: likelihoods.Scorer, params: Params, read: Sequence[winogender.Sentence]
) -> list[int]:
    """Chooses the person whose tokens have the larger mean log-likelihood."""
    texts = [[(one.prompt, answer) for answer in one.answers] for one in read]
    _, likely = scorer(params, [text for two in texts for text in two])
    return [int(np.argmax([np.mean(likely[text]) for text in two])) for two in texts]
