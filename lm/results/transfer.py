"""Does the best learning rate move with the width, with muP and without it?

    python -m lm.results.transfer RUNS [--png=transfer.png] [--octaves=1]

reads the finished runs below a folder, such as those of configs/sweeps/mup_transfer.py. It prints a
table, draws the last eval/loss against the rate for each width, and exits with 0 if muP's best rate
moves by at most so many octaves (factors of 2) from the narrowest to the widest model, with 1 if it
moves further, and with 2 if the runs cannot tell.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm.errors import UserError
from lm.results import reading
from lm.system import atomic_files, safe_text

_LOSS = "eval/loss"
_KEYS = ("model.mup_model_dim", "model.model_dim", "optimizer.peak_lr", "seed")


class TransferPoint(NamedTuple):
    """One run. loss: nats a token of its last evaluation; infinite where it has diverged."""

    has_mup: bool
    width: int
    rate: float
    seed: int
    loss: float


class Curve(NamedTuple):
    """Loss by rate of one width: means over seeds, their standard errors (0 of one seed).

    best_rate: where a parabola in log2 rate through the lowest mean and its neighbours is lowest.
    is_inside: the lowest mean is not at an end of the rates, so that `best_rate` is known.
    """

    rates: np.ndarray
    means: np.ndarray
    errors: np.ndarray
    best_rate: float
    is_inside: bool


def finished(folder: pathlib.Path) -> tuple[list[TransferPoint], list[str]]:
    """Reads the finished runs below a folder, and a line for each thing that is left out.

    Raises:
      UserError: there is none, or one is no pretraining of a model that muP has rules for.
    """
    found = reading.read(folder, [_LOSS])
    runs = [point(r) for r in found.runs if r.state.kind == "done" and _LOSS in r.series]
    num_unfinished = len(found.runs) - len(runs)
    if not runs:
        raise UserError(f"{folder} has no finished run with {_LOSS}; train some first")
    unfinished = [f"runs that are not finished: {num_unfinished}"] if num_unfinished else []
    return runs, [*found.warnings, *unfinished]


def point(run: reading.RunRecord) -> TransferPoint:
    """Takes from a run, which has logged `_LOSS`, what counts here.

    Raises:
      UserError: it is no pretraining of a model that muP has rules for.
    """
    missing = [key for key in _KEYS if key not in run.config]
    if missing:
        raise UserError(f"{run.name} has no {missing[0]}; name a folder of pretraining runs")
    mup_width, *settings = (run.config[key] for key in _KEYS)  # A width of 0 is without muP.
    loss = float(run.series[_LOSS].values[-1])
    return TransferPoint(mup_width > 0, *settings, loss if math.isfinite(loss) else math.inf)


def curves(runs: Iterable[TransferPoint]) -> dict[tuple[bool, int], Curve]:
    """Makes a curve for each (with muP, width), in that order."""
    groups: dict[tuple[bool, int], dict[float, list[float]]] = {}
    for run in sorted(runs):
        groups.setdefault((run.has_mup, run.width), {}).setdefault(run.rate, []).append(run.loss)
    return {key: curve(by_rate) for key, by_rate in groups.items()}


def curve(by_rate: Mapping[float, Sequence[float]]) -> Curve:
    """Makes the curve of losses of seeds by rate; a rate at which one diverged is infinite."""
    rates = np.array(sorted(by_rate))
    means, errors = np.full(len(rates), math.inf), np.zeros(len(rates))
    for i, rate in enumerate(rates):
        losses = np.array(by_rate[rate])
        if np.isfinite(losses).all():
            means[i] = losses.mean()
            if len(losses) > 1:  # s / sqrt(n), where s divides by n - 1.
                errors[i] = losses.std(ddof=1) / len(losses) ** 0.5
    lowest = int(np.argmin(means))
    is_inside = 0 < lowest < len(rates) - 1
    best_rate = float(rates[lowest])
    if is_inside and np.isfinite(means[lowest - 1 : lowest + 2]).all():
        near = slice(lowest - 1, lowest + 2)
        # Relative to the best rate: x is near 0, where the fit is exact and -b / 2a is the shift.
        a, b, _ = np.polyfit(np.log2(rates[near] / best_rate), means[near], 2)
        best_rate *= float(2 ** (-b / (2 * a))) if a > 0 else 1.0
    return Curve(rates, means, errors, best_rate, is_inside)


def shift(found: Mapping[tuple[bool, int], Curve], has_mup: bool) -> float:
    """Computes by how many octaves the best rate moves from narrowest to widest model.

    Raises:
      UserError: fewer than two widths.
    """
    widths = [width for kind, width in found if kind == has_mup]
    if len(widths) < 2:
        raise UserError(
            f"{_name(has_mup)} has runs of {len(widths)} widths; at least two are needed"
        )
    narrow, wide = found[has_mup, min(widths)], found[has_mup, max(widths)]
    return math.log2(wide.best_rate / narrow.best_rate)


def is_known(found: Mapping[tuple[bool, int], Curve], has_mup: bool) -> bool:
    """Says whether no best rate lies at an end of the rates, where the shift is but a bound."""
    return all(c.is_inside for (kind, _), c in found.items() if kind == has_mup)


def report(found: Mapping[tuple[bool, int], Curve], octaves: float) -> tuple[list[str], int]:
    """Writes the table and what it says, and gives the exit code.

    Raises:
      UserError: see `shift`.
    """
    lines = [f"{'':10}{'width':>7}{'best rate':>12}{'loss there':>12}{'+-':>8}"]
    for (has_mup, width), c in found.items():
        lowest = int(np.argmin(c.means))
        lines.append(
            f"{_name(has_mup):10}{width:>7}{c.best_rate:>12.3g}{c.means[lowest]:>12.4f}"
            f"{c.errors[lowest]:>8.4f}{'' if c.is_inside else '  at an end of the rates'}"
        )
    code = 0
    for has_mup in (False, True):
        moved = shift(found, has_mup)
        known = is_known(found, has_mup)
        at_least = "" if known else ", or more: a best rate lies at an end of the rates"
        lines.append(f"{_name(has_mup)}: the best rate moves by {moved:+.2f} octaves{at_least}")
        if has_mup:
            code = 2 if not known else int(abs(moved) > octaves)
    verdict = {0: "transfers", 1: "does not transfer", 2: "not known: add rates"}[code]
    return [*lines, f"muP: the rate {verdict}, bound {octaves:g} octaves"], code


def draw(found: Mapping[tuple[bool, int], Curve], path: pathlib.Path) -> None:
    """Loss against rate, a line for each width and a star at its minimum, as a PNG.

    Raises:
      UserError: it cannot be written there.
    """
    # Imported here, since the numbers do not need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    widths = sorted({width for _, width in found})
    for axis, has_mup in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        for (kind, width), c in found.items():
            if kind != has_mup:
                continue
            color = str(0.75 * (1 - widths.index(width) / len(widths)))
            axis.errorbar(c.rates, c.means, c.errors, fmt="o-", color=color, label=str(width))
            axis.plot(c.best_rate, c.means.min(), "*", color="#b5512e", markersize=12)
        axis.set_xscale("log", base=2)
        axis.set(title=_name(has_mup), xlabel="optimizer.peak_lr")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, title="width")
    figure.axes[0].set_ylabel("validation loss, nats a token")
    try:
        with atomic_files.replacing(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")
    except OSError as error:
        raise UserError(f"--png={path}: {error}; name another file") from None


def _name(has_mup: bool) -> str:
    return "muP" if has_mup else "standard"


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lm.results.transfer")
    parser.add_argument("runs", type=pathlib.Path, help="a folder of run folders")
    parser.add_argument("--png", type=pathlib.Path, help="RUNS/transfer.png if not given")
    parser.add_argument("--octaves", type=float, default=1.0, help="by how much muP's may move")
    options = parser.parse_args(argv)
    try:
        if not options.octaves >= 0:
            raise UserError(f"--octaves={options.octaves} must be a number of at least 0")
        runs, left_out = finished(options.runs)
        for line in left_out:
            print(safe_text.one_line(f"left out: {line}"), file=sys.stderr)
        found = curves(runs)
        lines, code = report(found, options.octaves)
        print("\n".join(lines))
        png = options.png or options.runs / "transfer.png"
        draw(found, png)
    except UserError as error:
        print(safe_text.one_line(f"error: {error}"), file=sys.stderr)
        return 2
    print(f"see {png}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
