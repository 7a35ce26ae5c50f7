"""Learning-rate schedules: functions from the step (counted from 0) to a rate."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.errors import UserError

Schedule = Callable[[int], float]

_BLOCK_STEPS = 1024


def warmup_of(num_steps: int, *, warmup_steps: int, warmup_share: float) -> int:
    """Returns how many steps of a run its warmup takes: so many, or such a share of the run.

    A run that is no longer than its warmup warms up for a tenth of its steps. Raises UserError
    where both are set, or the steps are negative.
    """
    if warmup_steps and warmup_share:
        raise UserError(
            f"optimizer.warmup_steps={warmup_steps} and optimizer.warmup_share={warmup_share}: "
            "make one of them 0"
        )
    if warmup_steps < 0:
        raise UserError(f"optimizer.warmup_steps={warmup_steps} must be at least 0")
    warmup_steps = warmup_steps or round(warmup_share * num_steps)
    # A recipe that was shortened to fewer steps than its warmup still reaches the peak.
    return warmup_steps if warmup_steps < num_steps else num_steps // 10


def constant(*, peak_lr: float, num_steps: int) -> Schedule:
    """Stays at the peak."""
    return optax.constant_schedule(peak_lr)


def linear(*, peak_lr: float, num_steps: int, final_lr_ratio: float) -> Schedule:
    """Falls in a straight line from the peak to `final_lr_ratio` of it."""
    return optax.linear_schedule(peak_lr, peak_lr * final_lr_ratio, num_steps)


def cosine(*, peak_lr: float, num_steps: int, final_lr_ratio: float) -> Schedule:
    """Falls as half a cosine to `final_lr_ratio` of the peak (Loshchilov & Hutter 2017, eq. 5)."""
    return optax.cosine_decay_schedule(peak_lr, num_steps, alpha=final_lr_ratio)


def wsd(*, peak_lr: float, num_steps: int, final_lr_ratio: float, decay_ratio: float) -> Schedule:
    """Stays at the peak, falls linearly in the last `decay_ratio` (Hu et al. 2024, section 4)."""
    if not 0 <= decay_ratio <= 1:
        raise UserError(f"optimizer.decay_ratio={decay_ratio} must lie in [0, 1]")
    decay_steps = round(decay_ratio * num_steps)
    fall = optax.linear_schedule(peak_lr, peak_lr * final_lr_ratio, decay_steps)
    return optax.join_schedules([optax.constant_schedule(peak_lr), fall], [num_steps - decay_steps])


def with_warmup(schedule: Schedule, *, peak_lr: float, warmup_steps: int) -> Schedule:
    """Rises linearly to the peak, which step `warmup_steps` reaches, then follows `schedule`."""
    if not warmup_steps:
        return schedule
    # Not from 0, which would make the first step, at the cost of a batch, do nothing.
    rise = optax.linear_schedule(peak_lr / (warmup_steps + 1), peak_lr, warmup_steps)
    return optax.join_schedules([rise, schedule], [warmup_steps])


def rsqrt(*, peak_lr: float, warmup_steps: int) -> Schedule:
    """Falls as 1/sqrt(step) from the peak (Vaswani et al. 2017, section 5.3)."""
    # Steps count from the end of the warmup: sqrt(w / (w + step)) is 1 there.
    start = max(warmup_steps, 1)
    # During the warmup optax asks for steps before the first, and throws the answer away.
    return lambda step: peak_lr * jnp.sqrt(start / (start + jnp.maximum(step, 0)))


def on_host(schedule: Schedule) -> Callable[[int], float]:
    """Makes of a schedule a look-up of numbers, which waits for a device once in 1,024 steps.

    Asked for alone, a rate would come behind the step that a device computes just then.
    """
    # One program: called outside of one, each operation of a schedule is compiled by itself.
    rates_of = jax.jit(jax.vmap(schedule))

    @functools.lru_cache(maxsize=1)
    def block(index: int) -> list[float]:
        first = index * _BLOCK_STEPS
        return rates_of(np.arange(first, first + _BLOCK_STEPS, dtype=np.int32)).tolist()

    block(0)  # Compiled now, before the devices have something to do.
    return lambda step: block(step // _BLOCK_STEPS)[step % _BLOCK_STEPS]


# Each takes `peak_lr`; what else it takes of the optimizer block, its signature says.
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "rsqrt": rsqrt, "wsd": wsd}
