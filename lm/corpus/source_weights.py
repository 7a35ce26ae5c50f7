"""Weights of the sources of a mixture, in each stage of a run, from what a config says of them."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm.corpus.mixture import Mixture, whole_counts
from lm.errors import UserError

_STAGES = "data.mixture.stages"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the sources of a mixture are weighed.

    weights: by source; only their ratios count, and 0 leaves a source out of training.
    temperature: 0, or the T by whose root the tokens of a source multiply its weight.
    stages: pairs of a start, as a share of the run's steps, and weights by source from there on.
    max_epochs: by source, how often a run may see each row; 0: as often as the weights have it.
    """

    weights: Mapping[str, float]
    temperature: float
    stages: Sequence[tuple[float, Mapping[str, float]]]
    max_epochs: Mapping[str, float]


def check(settings: Settings, num_steps: int) -> None:
    """Checks what needs no data, for a run of so many steps.

    Raises:
      UserError: weights that are no weights, or stages that do not follow one another, or have no
        step.
    """
    names, temperature = sorted(settings.weights), settings.temperature
    if not 0 <= temperature < math.inf:
        raise UserError(
            f"data.mixture.temperature={temperature} must be a number of at least 0; 0 takes the "
            "weights as they are"
        )
    for name in names:
        _check_number(f"data.sources.{name}.max_epochs", settings.max_epochs[name], "no limit")
        _check_number(f"data.sources.{name}.weight", settings.weights[name], "never drawn")
    starts = [_check_stage(stage, names) for stage in settings.stages]
    if any(a >= b for a, b in zip([-1.0, *starts], [*starts, 1.0], strict=True)):
        raise UserError(
            f"{_STAGES} start at {', '.join(map(str, starts))}; each must start later than the one "
            "before, at less than 1, the end of the run"
        )
    if 0 in starts:  # Or else they would say nothing, and no one would see.
        weighed = [name for name in names if settings.weights[name] != 1]
        if weighed or temperature:
            key = f"data.sources.{weighed[0]}.weight" if weighed else "data.mixture.temperature"
            raise UserError(
                f"{key} means nothing where {_STAGES} has a stage from 0 on; leave it at "
                f"{'1' if weighed else '0'}, or that stage out"
            )
    elif not any(settings.weights.values()):
        raise UserError("the weight of all data.sources is 0; give one of them more")
    _stage_steps(starts, num_steps)


def _stage_steps(starts: Sequence[float], num_steps: int) -> list[range]:
    """Gives the steps of each stage, and of what comes before the first."""
    starts = [*([] if 0 in starts else [0.0]), *starts]
    first = [*(round(start * num_steps) for start in starts), num_steps]
    for start, steps in zip(starts, found := list(map(range, first, first[1:])), strict=True):
        if not steps:
            raise UserError(
                f"{_STAGES}: the stage from {start} on has none of the run's {num_steps} steps; "
                "make it longer, or train.num_steps"
            )
    return found


def _check_number(key: str, value: Any, at_zero: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise UserError(f"{key}={value!r} must be a number of at least 0; 0: {at_zero}")


def _check_stage(stage: Any, names: Sequence[str]) -> float:
    """Returns where a stage starts."""
    match stage:
        case [int() | float() as start, Mapping() as weights] if start >= 0:
            pass
        case _:
            raise UserError(
                f"{_STAGES}: {stage!r} is no pair of a share of the run from 0 to 1 and the "
                "weights from there on, such as (0.9, {'en': 0.5, 'zh': 0.5})"
            )
    where = f"{_STAGES}: the stage from {start} on"
    if unknown := sorted(weights.keys() - {*names}):
        near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.0)[0]
        raise UserError(
            f"{where} weighs {unknown[0]!r}, which is none of data.sources: {', '.join(names)}; "
            f"did you mean {near!r}?"
        )
    if missing := [name for name in names if name not in weights]:
        raise UserError(f"{where} gives {missing[0]} no weight; 0 leaves it out there")
    for name in names:
        _check_number(f"{where}: {name}", weights[name], "never drawn")
    if not any(weights.values()):
        raise UserError(f"{where} has no weight that is not 0; give one source more")
    return start


def make_mixture(
    settings: Settings,
    *,
    num_rows: Mapping[str, int],
    num_tokens: Mapping[str, int],
    num_steps: int,
    batch_size: int,
) -> Mixture:
    """Makes the order of a run's examples.

    Args:
      settings: which `check` lets pass.
      num_rows, num_tokens: of the training split, by source.
      num_steps, batch_size: of the run.

    Raises:
      UserError: a source would be seen more often than it may.
    """
    names = sorted(settings.weights)  # The order in which a config has them changes nothing.
    stages = [(start, dict(weights)) for start, weights in settings.stages]
    if not stages or stages[0][0] > 0:
        stages.insert(0, (0.0, tempered(settings.weights, settings.temperature, num_tokens)))
    steps = _stage_steps([start for start, _ in settings.stages], num_steps)
    counts = [
        whole_counts([weights[name] for name in names], len(of_stage) * batch_size)
        for (_, weights), of_stage in zip(stages, steps, strict=True)
    ]
    for name, of_source in zip(names, zip(*counts, strict=True), strict=True):
        limit, drawn = settings.max_epochs[name], sum(of_source)
        if limit and drawn > limit * num_rows[name]:
            epochs = drawn / num_rows[name]
            most_steps = math.floor(num_steps * limit / epochs)
            fewer = f"or train.num_steps to {most_steps}, " if most_steps else ""
            raise UserError(
                f"data.sources.{name}.max_epochs={limit}: the weights draw {drawn:,} of its "
                f"{num_rows[name]:,} rows, {epochs:.4g} epochs; lower its weight, "
                f"{fewer}or raise max_epochs"
            )
    return Mixture(names, counts)


def tempered(
    weights: Mapping[str, float], temperature: float, num_tokens: Mapping[str, int]
) -> dict[str, float]:
    """Multiplies weights by num_tokens ** (1 / temperature), up to a factor that all share.

    At 1 sources are drawn by their sizes, the higher the more alike (Arivazhagan et al. 2019,
    section 4.2); the exponent is the alpha of XLM-R (Conneau et al. 2020, equation 1), 0.3, and so
    a temperature of 3.33. At 0 weights stay as they are.
    """
    if not temperature:
        return dict(weights)
    most = max(num_tokens.values())
    # Of 12 digits, for the last ones of a power differ between machines.
    power = lambda name: float(f"{math.exp(math.log(num_tokens[name] / most) / temperature):.12g}")
    return {name: weight * power(name) for name, weight in weights.items()}


def never_drawn(mixture: Mixture) -> list[str]:
    """Names the sources of which a run sees nothing."""
    totals = mixture.counts(mixture.num_examples)
    return [name for name, total in zip(mixture.names, totals, strict=True) if not total]
