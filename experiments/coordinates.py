"""The coordinate check: does what a few steps do to activations depend on the width?

Yang et al. 2022, appendix D.1 and figure 5. Under muP it does not; a rate, an initial weight or a
multiplier that is scaled wrongly shows as a slope of log size against log width.

Dimension key:
  N layers    B batch    L query length    M key length    H heads    G key/value heads
  K head width
"""

import csv
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from experiments.wiring import init_from, mixtures, pretraining, variants
from lm.corpus.batches import Corpus
from lm.models import mup
from lm.models.parameters import Params
from lm.run import workdir as workdir_lib
from lm.system import atomic_files

# From the input to the output.
ACTIVATIONS = ("embedding", "attention scores", "attention out", "mlp out", "logits")


class Point(NamedTuple):
    """Mean absolute size of an activation after `step` updates, and of its change by them."""

    parametrisation: str
    activation: str
    step: int
    width: int  # A multiple of the base shape's.
    size: float
    change: float


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Trains models of several widths for a few steps, with and without muP.

    Writes coordinates.csv and coordinates.png, prints slopes, and returns 0 if all are flat under
    muP, else 1. What the standard parametrisation does is shown beside it and decides nothing.

    Raises:
      UserError: before anything is trained, for whatever in the config cannot work.
    """
    given = config.to_dict()
    workdir_lib.check(workdir, given)
    for name in ("muP", "standard"):
        for width in config.coordinates.widths:
            pretraining.make_parts(variants.widened(config, width, name))
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    points = []
    with workdir_lib.opened(workdir, given, data_hash=prepared.hash):
        for name in ("muP", "standard"):
            for width in config.coordinates.widths:
                print(f"{name}, {width} times as wide", flush=True)
                points += measured(config, width, name, prepared)
        table = workdir / "coordinates.csv"
        with atomic_files.replacing(table) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Point._fields, *points])
        draw(points, workdir / "coordinates.png")
    flat = _report(points, config.coordinates.bound)
    print(f"see {workdir}/coordinates.png")
    return 0 if flat else 1


def measured(
    config: ml_collections.ConfigDict, width: int, parametrisation: str, prepared: Corpus
) -> Iterator[Point]:
    """Trains one width; yields each activation's size before each step and at the end."""
    config = variants.widened(config, width, parametrisation)
    parts = pretraining.make_parts(config)
    objective = pretraining.make_objective(config.objective, parts.model, prepared)
    abstract = pretraining.abstract_state(parts)
    step_fn, place = pretraining.make_step(parts, objective, abstract)
    key = jax.random.key(config.seed)
    sizes = dict(batch_size=config.data.batch_size, num_steps=config.train.num_steps)
    batches = mixtures.make_batches(prepared, seed=config.seed, **sizes)
    (first,) = batches.iterate(0, 1)
    # Of the same rows at every step and width, so that only the parameters differ.
    probe = jax.tree.map(lambda x: x[: config.coordinates.probe_rows], first)
    inputs = objective(probe, key).inputs
    look = jax.jit(lambda params: activations(parts.model, params, inputs))
    mean = lambda x: float(np.mean(np.abs(x), dtype=np.float64))

    state = init_from.make_state(config.init_from, parts, abstract)(config.seed)
    at_start = jax.device_get(look(state.params))
    for step, rows in enumerate([*batches.iterate(0, config.train.num_steps), None]):
        for name, x in jax.device_get(look(state.params)).items():
            size, change = mean(x), mean(x - at_start[name])
            yield Point(parametrisation, name, step, width, size, change)
        if rows is not None:
            state, _ = step_fn(state, place(rows), key=key)


def activations(
    model: nn.Module, params: Params, inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Gives a decoder's activations by name in float32, those of layers along a first dimension."""
    names = ("attention", "mlp", "query", "key")
    output, kept = model.apply(
        {"params": params},
        **inputs,
        capture_intermediates=lambda module, _: module.name in names,
        mutable=["intermediates"],
    )
    layers = kept["intermediates"]["layers"]
    output_of = lambda module: module["__call__"][0].astype(jnp.float32)
    queries, keys = (output_of(layers["attention"][name]) for name in ("query", "key"))
    return {
        "embedding": params["token_embedding"][inputs["tokens_BL"]],
        "attention scores": _scores(model.config, queries, keys),
        "attention out": output_of(layers["attention"]),
        "mlp out": output_of(layers["mlp"]),
        "logits": output.logits().astype(jnp.float32),
    }


def _scores(c: Any, q_NBLHK: jax.Array, k_NBMGK: jax.Array) -> jax.Array:
    """Gives scores, N x B x H x L x M, masked pairs too; Llama's rotation changes no sizes."""
    scale = mup.attention_scale(c)  # None: the usual one, by the root of the head width.
    k_NBMHK = jnp.repeat(k_NBMGK, c.num_heads // k_NBMGK.shape[3], axis=3)
    scores_NBHLM = jnp.einsum("NBLHK,NBMHK->NBHLM", q_NBLHK, k_NBMHK)
    return scores_NBHLM * (c.head_dim**-0.5 if scale is None else scale)


class Slope(NamedTuple):
    """Slopes of log size, and of log change, by log width. 0 is flat."""

    size: float
    change: float


def slopes(points: list[Point], parametrisation: str) -> dict[str, Slope]:
    """Fits slopes by activation: of sizes at the steepest step, of changes after the last one."""
    found = {}
    for activation in ACTIVATIONS:
        here = [
            p for p in points if (p.parametrisation, p.activation) == (parametrisation, activation)
        ]
        # After the last step: before, what is random in a narrow model counts for more.
        *_, change = _slopes(here, "change")
        # Of sizes the highest of all steps, for they may shrink, as those of logits do until they
        # are learned (Yang et al. 2022, appendix D.2).
        found[activation] = Slope(max(_slopes(here, "size")), change)
    return found


def is_flat(found: Mapping[str, Slope], bound: float) -> bool:
    """Tells whether no size grows, and no change grows or shrinks, by a slope above `bound`."""
    # What has overflown is NaN, for which nothing holds.
    return all(slope.size <= bound and abs(slope.change) <= bound for slope in found.values())


def _slopes(points: list[Point], measure: str) -> Iterator[float]:
    """Yields the slope of each step."""
    for step in sorted({p.step for p in points}):
        here = [p for p in points if p.step == step]
        with np.errstate(divide="ignore", invalid="ignore"):  # What never changes has no slope.
            sizes = np.log2([getattr(p, measure) for p in here])
            widths = np.log2([p.width for p in here])
            centred = widths - widths.mean()
            yield float(centred @ sizes / (centred @ centred))  # Least squares.


def _report(points: list[Point], bound: float) -> bool:
    ours, others = slopes(points, "muP"), slopes(points, "standard")
    print(f"{'slope by width':18}{'muP size':>10}{'change':>10}{'standard size':>15}{'change':>10}")
    for name in ACTIVATIONS:
        (size, change), (other_size, other_change) = ours[name], others[name]
        cells = f"{size:>+10.2f}{change:>+10.2f}{other_size:>+15.2f}{other_change:>+10.2f}"
        print(f"{name:18}{cells}")
    flat = is_flat(ours, bound)
    print(f"muP: {'flat' if flat else 'not flat'}, bound {bound:g}")
    return flat


def draw(points: list[Point], path: pathlib.Path) -> None:
    """Draws sizes and changes by width, a line for each step, as a PNG."""
    # Imported here, since no other experiment needs it.
    from matplotlib.figure import Figure

    rows = [(kind, measure) for measure in ("size", "change") for kind in ("muP", "standard")]
    figure = Figure(figsize=(2.6 * len(ACTIVATIONS), 2.2 * len(rows)), layout="constrained")
    for axes, (kind, measure) in zip(
        figure.subplots(len(rows), len(ACTIVATIONS)), rows, strict=True
    ):
        axes[0].set_ylabel(f"{kind}: mean |{measure}|")
        for axis, name in zip(axes, ACTIVATIONS, strict=True):
            here = [p for p in points if (p.parametrisation, p.activation) == (kind, name)]
            # Nothing has changed at step 0, and log axes have no 0.
            first, last = (1 if measure == "change" else 0), max(p.step for p in here)
            for step in range(first, last + 1):
                line = [(p.width, getattr(p, measure)) for p in here if p.step == step]
                color = str(0.8 * (1 - step / max(last, 1)))
                axis.loglog(*zip(*line, strict=True), "o-", color=color, label=f"step {step}")
            axis.set_title(name, fontsize=9)
            axis.set_xscale("log", base=2)
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes:
        axis.set_xlabel("width / base width")
    axes[-1].legend(frameon=False, fontsize=7)
    with atomic_files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
