"""What finished runs say of the claims of papers."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lm.results import groups, scaling_law, transfer
from lm.results.reading import RunRecord

NUM_RESAMPLES = 500  # Of the scaling law's points.


class Measured(NamedTuple):
    """What runs say of a claim.

    text: our numbers; gap: how far from the target; holds: whether that is within its tolerance.
    """

    text: str
    gap: str
    holds: bool


def _mean(values: Sequence[float], digits: int = 3) -> str:
    """The mean with its interval where there are several."""
    text = f"{statistics.fmean(values):.{digits}f}"
    interval = groups.bootstrap_interval(values)
    if interval is None:
        return text
    return f"{text} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f}, {len(values)} seeds)"


def _first_step(run: RunRecord, metric: str, reached: Callable[[float], bool]) -> int | None:
    """The first step at which a metric was logged as high, or as low, as asked."""
    series = run.series[metric]
    hits = [s for s, x in zip(series.steps, series.values, strict=True) if reached(x)]
    return int(hits[0]) if hits else None


def _steps_to(run: RunRecord, metric: str, goal: float) -> float:
    """Where a metric first falls to a goal, on straight lines between its points; or infinity."""
    series = run.series[metric]
    falls = np.flatnonzero(np.asarray(series.values) <= goal)
    if not len(falls):
        return np.inf
    i = falls[0]
    if i == 0:
        return float(series.steps[0])
    return float(np.interp(-goal, -series.values[i - 1 : i + 1], series.steps[i - 1 : i + 1]))


def _last(run: RunRecord, metric: str) -> float:
    return float(run.series[metric].values[-1])


def _by(runs: Sequence[RunRecord], *keys: str) -> dict[tuple, list[RunRecord]]:
    """Runs by the values that their configs have at these keys."""
    found: dict[tuple, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(tuple(run.config[key] for key in keys), []).append(run)
    return found


def _best_rate(runs: Sequence[RunRecord], metric: str, sign: int) -> list[RunRecord]:
    """Of runs that differ in rate and seed, those of the rate that is best on average.

    `sign` is 1 where more of the metric is better, and -1 where less is. NaN is worse than all.
    """

    def score(of: list[RunRecord]) -> float:
        mean = sign * statistics.fmean(_last(run, metric) for run in of)
        return mean if math.isfinite(mean) else -math.inf

    return max(_by(runs, "optimizer.peak_lr").values(), key=score)


_GROKKED = 0.95


def grokking(runs: Sequence[RunRecord]) -> Measured:
    """How much later validation accuracy passes 0.95 than training accuracy does."""
    ratios, firsts = [], []
    for run in runs:
        known = _first_step(run, "training_set/accuracy", lambda x: x >= _GROKKED)
        found = _first_step(run, "eval/accuracy", lambda x: x >= _GROKKED)
        if known is None or found is None:
            return Measured("never", "", False)
        firsts.append((known, found))
        ratios.append(found / known)
    steps = ", ".join(f"{known} and {found}" for known, found in sorted(firsts))
    ratio = statistics.fmean(ratios)
    return Measured(
        f"{_mean(ratios, 1)} times; steps {steps}", f"{ratio - 5:+.1f}", min(ratios) >= 5
    )


def mup(runs: Sequence[RunRecord]) -> Measured:
    """By how many octaves the best rate moves from the narrowest to the widest model."""
    found = transfer.curves(map(transfer.point, runs))
    standard, moved = (transfer.shift(found, has_mup) for has_mup in (False, True))
    or_more = lambda known: "" if known else " or more, for one lies at an end of the rates"
    known, standard_known = (transfer.is_known(found, has_mup) for has_mup in (True, False))
    text = (
        f"moves by {moved:+.2f} octaves{or_more(known)} with muP, by {standard:+.2f}"
        f"{or_more(standard_known)} without"
    )
    holds = known and abs(moved) <= 1 and abs(moved) < abs(standard)
    return Measured(text, f"{abs(moved) - 1:+.2f}", holds)


def scaling(runs: Sequence[RunRecord]) -> Measured:
    """The exponents of a power law fitted to the last losses, and how far off it they are."""
    num_params = np.array([_num_params(run) for run in runs], float)
    tokens = np.array([_last(run, "train/tokens") for run in runs])
    losses = np.array([_last(run, "eval/loss") for run in runs])
    law = scaling_law.fit(num_params, tokens, losses)
    laws = scaling_law.bootstrap(law, num_params, tokens, losses, num_samples=NUM_RESAMPLES, seed=0)
    least, most = np.percentile([[x.alpha, x.beta] for x in laws], [2.5, 97.5], axis=0)
    widest = num_params == num_params.max()
    without = scaling_law.fit(num_params[~widest], tokens[~widest], losses[~widest])
    errors = lambda law: np.abs(np.log(law.loss(num_params, tokens) / losses))
    foretold = errors(without)[widest].mean()
    text = (
        f"alpha {law.alpha:.2f} ({least[0]:.2f} to {most[0]:.2f}), "
        f"beta {law.beta:.2f} ({least[1]:.2f} to {most[1]:.2f}), "
        f"E {law.E:.2f}; mean error {errors(law).mean():.1%} over {len(runs)} models, and "
        f"{foretold:.1%} of the widest, foretold by the others"
    )
    return Measured(text, f"{foretold - 0.02:+.1%}", bool(foretold <= 0.02 and min(least) > 0))


def _num_params(run: RunRecord) -> int:
    """Of the layers of a GPT-2, as Hoffmann et al. count without embeddings."""
    c = {key: run.config[f"model.{key}"] for key in ("num_layers", "model_dim", "mlp_dim")}
    return c["num_layers"] * c["model_dim"] * (4 * c["model_dim"] + 2 * c["mlp_dim"])


def optimizers(runs: Sequence[RunRecord]) -> Measured:
    """Steps to the loss that AdamW ends with from the same seed, each rule at its best rate.

    Nothing holds where AdamW's best rate is the least or the greatest that it got: then a better
    one may lie beyond. Of the others such a rate only makes them look worse than they are.
    """
    by_rule = {rule: of for (rule,), of in _by(runs, "optimizer.name").items()}
    best = {
        rule: {run.config["seed"]: run for run in _best_rate(of, "eval/loss", -1)}
        for rule, of in by_rule.items()
    }
    goals = {seed: _last(run, "eval/loss") for seed, run in best["adamw"].items()}
    steps = {
        rule: [_steps_to(of[seed], "eval/loss", goal) for seed, goal in goals.items()]
        for rule, of in best.items()
    }
    rate_of = lambda run: run.config["optimizer.peak_lr"]
    rates = {rule: rate_of(of[min(of)]) for rule, of in best.items()}
    tried = {rule: [*map(rate_of, of)] for rule, of in by_rule.items()}
    at_end = [rule for rule in best if rates[rule] in (min(tried[rule]), max(tried[rule]))]
    shown = lambda number: f"{number:.0f}" if math.isfinite(number) else "never"
    each = ", ".join(
        f"{rule} {' and '.join(map(shown, steps[rule]))} (rate {rates[rule]:g}"
        f"{', an end of those tried' if rule in at_end else ''})"
        for rule in sorted(best)
    )
    ratios = [ours / theirs for ours, theirs in zip(steps["muon"], steps["adamw"], strict=True)]
    ratio = statistics.fmean(ratios)
    text = f"steps to AdamW's last loss ({statistics.fmean(goals.values()):.3f} nats): {each}"
    if math.isfinite(ratio):
        text += f"; Muon takes {_mean(ratios, 2)} of AdamW's"
    return Measured(text, f"{ratio - 0.75:+.2f}", ratio <= 0.75 and "adamw" not in at_end)


def reaches(
    metric: str, target: float, tolerance: float, sign: int = 1
) -> Callable[[Sequence[RunRecord]], Measured]:
    """Whether the mean over seeds comes to a target, or misses it by the tolerance at most.

    `sign` is 1 where more of the metric is better, and -1 where less is.
    """

    def measure(runs: Sequence[RunRecord]) -> Measured:
        values = [_last(run, metric) for run in runs]
        gap = statistics.fmean(values) - target
        return Measured(_mean(values), f"{gap:+.3f}", sign * gap >= -tolerance)

    return measure


def lora(runs: Sequence[RunRecord]) -> Measured:
    """Accuracies of the ranks and of full fine-tuning, each at its best rate."""
    by_rank = {
        rank: [_last(run, "eval/accuracy") for run in _best_rate(of, "eval/accuracy", 1)]
        for (rank,), of in _by(runs, "lora.rank").items()
    }
    text = "; ".join(
        f"{f'rank {rank}' if rank else 'full'} {_mean(by_rank[rank])}" for rank in sorted(by_rank)
    )
    gap = statistics.fmean(by_rank[8]) - statistics.fmean(by_rank[0])
    return Measured(text, f"{gap:+.3f}", gap >= -0.02)


def crf(runs: Sequence[RunRecord]) -> Measured:
    """Entity F1 with a CRF and with a softmax."""
    by = {
        has_crf: [_last(run, "eval/f1_micro") for run in of]
        for (has_crf,), of in _by(runs, "task.crf").items()
    }
    gain = statistics.fmean(by[True]) - statistics.fmean(by[False])
    text = f"CRF {_mean(by[True])}, softmax {_mean(by[False])}"
    return Measured(text, f"{gain - 0.0179:+.3f}", gain >= 0.0179)


def label_efficiency(runs: Sequence[RunRecord]) -> Measured:
    """Accuracy of pretrained and random encoders by the number of labels, at their best rates."""
    by: dict[tuple, list[float]] = {
        key: [_last(run, "eval/accuracy") for run in _best_rate(of, "eval/accuracy", 1)]
        for key, of in _by(runs, "data.num_examples", "init_from").items()
    }
    gains, texts = [], []
    for number in sorted({number for number, _ in by}):
        pretrained, scratch = by[number, "runs/encoder"], by[number, "runs/random_encoder"]
        gains.append(statistics.fmean(pretrained) - statistics.fmean(scratch))
        texts.append(f"{number}: {_mean(pretrained)} and {_mean(scratch)}")
    return Measured("; ".join(texts), f"{min(gains):+.3f}", min(gains) > 0)
