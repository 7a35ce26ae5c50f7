"""The promises of a run, each as a check: what is measured, and the most that it may be."""

import functools
import itertools
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.verify.subject import NUM_STEPS, ShrunkRun, StepUnderTest, Variation
from lm.models.parameters import Params
from lm.train import loop
from lm.train.checkpoints import Checkpoints
from lm.train.step import TrainState

_ROUNDING = 1e-4  # Far above what the order of additions changes in float32, far below any mistake.
_SAVED, _END = 2, 4  # Steps at which a run is stopped, and ends.


class Result(NamedTuple):
    """What a check measured."""

    measured: float
    bound: float  # The most that this may be.
    skipped: str = ""  # Why it was skipped, if it was.

    @property
    def failed(self) -> bool:
        return not self.skipped and not self.measured <= self.bound  # NaN fails.


def accumulation(subject: ShrunkRun) -> Result:
    """A batch gives what its micro-batches give together."""
    variants = [Variation(subject.home, accumulate_steps=n, plain=True) for n in (1, 2)]
    return Result(_difference_of_steps(subject, variants), _ROUNDING)


def layers(subject: ShrunkRun) -> Result:
    """How the layers are computed changes nothing."""
    variants = [Variation(subject.home, 1, plain=True, flip_scan=flip) for flip in (False, True)]
    return Result(_difference_of_steps(subject, variants), _ROUNDING)


def evaluation(subject: ShrunkRun) -> Result:
    """Every row counts once, whatever the batch size."""
    params = _params(subject)
    # One of which no last batch is full.
    size = next(n for n in itertools.count(3) if all(rows % n for rows in subject.num_evaluated))
    found = [subject.evaluate(params, n) for n in (1, size)]
    return Result(_difference(*found), _ROUNDING)


def packing(subject: ShrunkRun) -> Result:
    """Nothing sees what it shares a row or a batch with."""
    params = _params(subject)
    costs = subject.costs(params)
    if isinstance(costs, str):
        return Result(math.nan, math.nan, costs)
    together, alone = costs
    # Relative to a nat at least: a document that costs nothing is all rounding.
    return Result(float(np.max(np.abs(together - alone) / np.maximum(alone, 1.0))), _ROUNDING)


def resume(subject: ShrunkRun) -> Result:
    """A run that was stopped ends as one that was not."""
    trainer = subject.trainer(Variation(subject.home))
    straight, all_seen = _fit(subject, trainer, trainer.first_state(), _END)
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(pathlib.Path(folder), keep_last=1) as checkpoints,
    ):
        state, seen = _fit(subject, trainer, trainer.first_state(), _SAVED)
        checkpoints.save(_SAVED, state, {}, {})
        checkpoints.wait()
        _, state, _ = checkpoints.restore(trainer.abstract)
    resumed, more_seen = _fit(subject, trainer, state, _END)
    # To the bit: resuming changes the order of no addition.
    return Result(_num_differing((straight, all_seen), (resumed, seen + more_seen)), 0)


def devices(subject: ShrunkRun) -> Result:
    """A mesh of devices computes what one device does."""
    batches = [subject.make_batches().batch_at(step) for step in range(3)]

    def metrics(devices):
        trainer = subject.trainer(Variation(devices, dropout=False))
        state, found = trainer.first_state(), []
        for batch in batches:
            state, metrics = trainer.step(state, trainer.place(batch))
            found.append(jax.device_get(metrics))
        return found

    # Three steps of the optimiser magnify what the order of additions changes.
    return Result(_difference(metrics(subject.mesh[:1]), metrics(subject.mesh)), 10 * _ROUNDING)


def first_loss(subject: ShrunkRun) -> Result:
    """A model that has learned nothing is no better than chance, and no worse."""
    if isinstance(subject.chance, str):
        return Result(math.nan, math.nan, subject.chance)
    # Logits of unit variance, as T5's are at first, cost half a nat more than equal ones.
    return Result(abs(_losses(subject)[0] / subject.chance - 1), 0.15)


def overfitting(subject: ShrunkRun) -> Result:
    """What is seen often enough is learned."""
    if subject.not_overfit:
        return Result(math.nan, math.nan, subject.not_overfit)
    losses = _losses(subject)
    return Result(losses[-1] / losses[0], 0.3)


# By name, with what is measured.
CHECKS: dict[str, tuple[Callable[[ShrunkRun], Result], str]] = {
    "accumulation": (accumulation, "update, metrics: 1 micro-batch, or 2 of unequal counts"),
    "evaluation": (evaluation, "metrics: batches of 1 row, or of more, the last not full"),
    "packing": (packing, "cost of a document or example: beside others, or alone"),
    "resume": (resume, "bytes of state and batches: straight, or through a checkpoint"),
    "devices": (devices, "losses, gradient norms of 3 steps: 1 device, or the mesh"),
    "layers": (layers, "update, metrics: layers unrolled, or scanned"),
    "first loss": (first_loss, "loss of step 0: of the model, or of chance"),
    "overfitting": (overfitting, f"loss of a batch: after {NUM_STEPS} steps on it, of that before"),
}


@functools.cache
def _losses(subject: ShrunkRun) -> list[float]:
    """Returns the losses of steps that all see one batch."""
    trainer = subject.trainer(Variation(subject.home, dropout=False, same_draws=True))
    batch, state, losses = subject.make_batches().batch_at(0), trainer.first_state(), []
    for _ in range(NUM_STEPS):
        state, metrics = trainer.step(state, trainer.place(batch))
        losses.append(float(metrics["loss"]))
    return losses


def _params(subject: ShrunkRun) -> Params:
    """Makes parameters on the home device, with noise."""
    trainer = subject.trainer(Variation(subject.home, 1, plain=True))
    return _with_noise(trainer.first_state().params)


def _difference_of_steps(subject: ShrunkRun, variants: Sequence[Variation]) -> float:
    """Returns the larger difference of what two variants make of a batch: parameters, metrics."""
    params, metrics = [], []
    for variant in variants:
        trainer = subject.trainer(variant)
        state = trainer.first_state()
        state = state.replace(params=_with_noise(state.params))
        state, of_step = trainer.step(state, trainer.place(subject.uneven))
        params.append(jax.device_get(state.params))
        metrics.append(jax.device_get(of_step))
    return max(_difference(*params), _difference(*metrics))


def _with_noise(params: Params) -> Params:
    # Biases and outputs begin at 0, and would hide a mistake in whatever they multiply.
    rng = np.random.default_rng(0)

    def add(x):
        noise = 0.2 * rng.standard_normal(x.shape).astype(x.dtype)
        return x + jax.device_put(noise, x.sharding)

    return jax.tree.map(add, params)


def _fit(
    subject: ShrunkRun, trainer: StepUnderTest, state: TrainState, end: int
) -> tuple[TrainState, list[Any]]:
    """Trains to step `end` as a run does; returns the state, and each step's rows and batch."""
    batches, seen = subject.make_batches(), []

    def watched(first: int) -> Iterator[Any]:
        for step, batch in enumerate(batches.iterate(first, end), start=first):
            seen.append((batches.rows_at(step), batch))
            yield batch

    state = loop.fit(
        state,
        trainer.step,
        map(trainer.place, watched(int(state.step))),
        num_steps=end,
        report=lambda step, metrics: None,
        hooks=[],
        stop_requested=lambda step: False,
    )
    return state, seen


def _difference(a: Any, b: Any) -> float:
    """Returns the largest relative difference of two trees' arrays; NaN equals NaN."""
    as_vectors = lambda tree: [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    pairs = list(zip(as_vectors(a), as_vectors(b), strict=True))
    pairs = [(x, y) for x, y in pairs if not (np.isnan(x) & np.isnan(y)).all()]
    # A small array is measured by a thousandth of the whole tree: its own size may be all rounding,
    # as that of the gradient of a bias that changes nothing.
    floor = 1e-3 * math.hypot(*(np.linalg.norm(x) for x, _ in pairs)) or 1.0
    sizes = [np.linalg.norm(x - y) / max(np.linalg.norm(x), floor) for x, y in pairs]
    return float(np.max(sizes, initial=0.0))


def _num_differing(a: Any, b: Any) -> int:
    """Counts the bytes in which two trees of equal structure differ."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    as_bytes = lambda x: np.atleast_1d(jax.device_get(x)).view(np.uint8)
    return sum(int(np.sum(as_bytes(x) != as_bytes(y))) for x, y in pairs)
