"""Programs of a GPU where there is none: they are traced and lowered, but neither compiled nor run.

`lm.costs.roofline` predicts from them how long a step takes at the least, and tests look into them.
"""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import jax
import ml_collections

from benchmarks import train_cases
from lm.costs import hardware, roofline
from lm.loading import task_model
from lm.models import factory

_CUDNN_VERSION = 91900  # Of those that JAX 0.10 asks about, one that has all kernels used here.


@contextlib.contextmanager
def as_if_on_gpu() -> Iterator[None]:
    """Traces inside of it choose dtypes and kernels as on an NVIDIA GPU of capability 9.0.

    What was traced can be lowered for "cuda", but neither compiled nor run: of parameters there are
    shapes alone.
    """

    def shapes_alone(config, task, model, mesh):
        init = functools.partial(task.objective.init_params, model)
        return jax.eval_shape(init, jax.random.key(0)), []

    with (
        mock.patch.object(task_model, "task_params", shapes_alone),
        mock.patch("jax.default_backend", lambda: "gpu"),
        mock.patch.object(factory, "compute_capability", lambda: (9, 0)),
        mock.patch(
            "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: _CUDNN_VERSION
        ),
        mock.patch(
            "jax._src.cudnn.fused_attention_stablehlo.check_compute_capability", lambda _: True
        ),
    ):
        yield


def step(
    config: ml_collections.ConfigDict, chip: hardware.Chip
) -> tuple[roofline.StepSeconds, float]:
    """Predicts a training step of a config on one such chip; and its FLOPs by token."""
    with as_if_on_gpu():
        program = train_cases.make_program(config, num_documents=2)
        return roofline.step_seconds(program.trace().jaxpr, chip), program.flops_per_token
