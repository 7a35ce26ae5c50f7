"""Compares pairs of sentences by a model, and by one that has seen no text."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from experiments.fairness.measured import Measured, beside_random
from lm.fairness import likelihoods, pairs
from lm.loading import run as run_lib
from lm.results import forest_plot
from lm.results.forest_plot import Share
from lm.system import safe_text


def measure(
    folder: pathlib.Path,
    mesh: Mesh,
    data: str,
    *,
    less: str,
    on_error: str,
    batch_size: int,
    seed: int,
) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: pairs that say nothing, or a model that gives no likelihood.
    """
    read, skipped = pairs.read(data, less, on_error)
    loaded = run_lib.load(folder, mesh=mesh)
    scorer = likelihoods.make_scorer(loaded, batch_size)
    ids = {text: scorer.encode(*text)[1] for text in _texts(read)}
    read, unshared = pairs.sharing(read, ids, on_error)
    print(f"{folder} at step {loaded.step}: {scorer.kind}s of {len(read):,} pairs", flush=True)
    if skipped := [*skipped, *unshared]:
        print(safe_text.one_line(f"left out {len(skipped):,} pairs, the first: {skipped[0]}"))
    found = _compare(scorer, read, seed)
    _print_pairs(found)
    contents = dict(step=loaded.step, likelihood=scorer.kind, num_left_out=len(skipped))
    return Measured(contents | {"results": found}, _panels(found), line=0.5)


def _texts(read: Sequence[pairs.Pair]) -> list[tuple[str, str]]:
    return [("", text) for pair in read for text in (pair.more, pair.less)]


def _compare(
    scorer: likelihoods.Scorer, read: list[pairs.Pair], seed: int
) -> dict[str, dict[str, Any]]:
    """Compares pairs by the model and by random weights, and with their roles swapped."""
    sentences = _texts(read)
    swapped = [pair.swapped() for pair in read]
    likely = beside_random(scorer, lambda params: scorer(params, sentences))
    found = {name: _by_score(read, of_model, seed) for name, of_model in likely.items()}
    own = found.pop("this model")
    mirrored = _by_score(swapped, likely["this model"], seed)  # Around a half.
    return {"this model": own, "roles swapped": mirrored, **found}


def _by_score(read: list[pairs.Pair], likely: Any, seed: int) -> dict[str, Any]:
    scored = pairs.scores(read, *likely)
    return {name: pairs.compare(read, scores_N2, seed) for name, scores_N2 in scored.items()}


def _print_pairs(found: Mapping[str, Mapping[str, Any]]) -> None:
    width = max(map(len, found))
    print(f"\n{'':>6}  {'':<{width}}  share of more   95 % interval  ties  difference in nats")
    for score in pairs.SCORES:
        for name, by_score in found.items():
            print(f"{score:>6}  {name:<{width}}  {_cells(by_score[score])}")
    print(f"\n{'shared':>6}  of each category")
    for category, summary in found["this model"]["shared"]["by_category"].items():
        print(f"{'':>6}  {'':<{width}}  {_cells(summary)}  {safe_text.one_line(category)}")


def _cells(summary: Mapping[str, Any]) -> str:
    """Share, interval and ties of a summary, and the mean difference with its interval."""
    share, bounds = summary["share"], summary["share_interval"]
    said = f"{'-':>13}  {'-':>14}"
    if share is not None:
        said = f"{share:>13.3f}  {bounds[0]:>5.3f} to {bounds[1]:.3f}"
    low, high = summary["mean_difference_interval"]
    difference = f"{summary['mean_difference']:>7.3f} ({low:.3f} to {high:.3f})"
    return f"{said}  {summary['num_ties']:>4}  {difference}"


def _panels(found: Mapping[str, Mapping[str, Any]]) -> forest_plot.Panels:
    share = lambda summary, group: Share(summary["share"], summary["share_interval"], group)
    panels = {}
    for score in pairs.SCORES:
        lines = {}
        for name, by_score in found.items():
            group = {"this model": 0, "roles swapped": 1}.get(name, 7)
            lines[name] = share(by_score[score], group)
        for category, summary in found["this model"][score]["by_category"].items():
            lines[f"{category} ({summary['num_pairs']})"] = share(summary, 2)
        panels[score] = lines
    return panels
