"""Scores StereoSet's sentences by a model, and by one that has seen no text."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.fairness.measured import Measured, beside_random, cell
from lm.fairness import likelihoods, stereoset
from lm.loading import run as run_lib
from lm.results.forest_plot import Share
from lm.system import safe_text

_MEASURES = ("lm", "ss", "icat")


def measure(folder: pathlib.Path, mesh: Mesh, data: str, *, batch_size: int, seed: int) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: data that are no StereoSet, or a model that gives no likelihood.
    """
    read = stereoset.read(data)
    loaded = run_lib.load(folder, mesh=mesh)
    scorer = likelihoods.make_scorer(loaded, batch_size)
    print(f"{folder} at step {loaded.step}: {scorer.kind}s of {len(read):,} clusters", flush=True)
    compared = lambda params: stereoset.compare(read, _scores(scorer, params, read), seed)
    found = beside_random(scorer, compared)
    _print(found)
    contents = dict(step=loaded.step, likelihood=scorer.kind, results=found)
    return Measured(contents, _panels(found), line=0.5)


def _scores(
    scorer: likelihoods.Scorer, params: Any, read: Sequence[stereoset.Cluster]
) -> list[list[float]]:
    """Averages the log-likelihoods of each sentence's tokens, behind its context if it has one."""
    texts = [[(cluster.context, text) for text in cluster.sentences] for cluster in read]
    _, likely = scorer(params, [text for three in texts for text in three])
    return [[float(np.mean(likely[text])) for text in three] for three in texts]


def _print(found: Mapping[str, Mapping[str, Any]]) -> None:
    own = found["this model"]
    rows = {**found, **own["by_split"], **own["by_bias_type"]}
    columns = "".join(f"{name:>28}" for name in (*_MEASURES, "share of no ties"))
    print(f"\n{columns}{'ties':>6}{'of':>7}")
    for name, scores in rows.items():
        cells = "".join(f"{cell(scores[measure]):>28}" for measure in (*_MEASURES, "share"))
        nums = f"{scores['num_ties']:>6,}{scores['num_clusters']:>7,}"
        print(f"{cells}{nums}  {safe_text.one_line(name)}")


def _panels(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Share]]:
    own = found["this model"]
    groups = {name: (scores, 7 if scores is not own else 0) for name, scores in found.items()}
    groups |= {name: (x, 2) for name, x in (*own["by_split"].items(), *own["by_bias_type"].items())}

    def shares(measure: str) -> dict[str, Share]:
        drawn = {}
        for name, (scores, group) in groups.items():
            low, high = scores[measure]["interval"]
            drawn[name] = Share(scores[measure]["value"] / 100, (low / 100, high / 100), group)
        return drawn

    return {f"{measure} / 100": shares(measure) for measure in _MEASURES}
