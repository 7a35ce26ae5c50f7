"""Opens a run of any kind."""

import os
import pathlib

from jax.sharding import Mesh

from lm.loading import language_model, task_model
from lm.parallel.mesh import make_mesh
from lm.parallel.param_rules import place_params

Run = language_model.SavedRun | task_model.SavedTaskModel


def load(folder: str | os.PathLike[str], *, mesh: Mesh | None = None) -> Run:
    """Opens a run, finished or not, or a folder of `transformers` as if it were one.

    Args:
      folder: of a run that was pretrained, fine-tuned or converted; or of `transformers`, which may
        have the head of a task.
      mesh: the devices that the parameters are divided over; by default each device has them all.

    Returns:
      Its config, model, parameters and tokenizer, at its best checkpoint where its config names a
      metric, else at the newest; of a fine-tuned run also its task, with adapters merged.

    Raises:
      UserError: it is neither, has no checkpoint, or its files do not fit each other.
    """
    run = read(pathlib.Path(folder))
    mesh = mesh or make_mesh(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)
    return run._replace(params=place_params(run.params, mesh))


def read(folder: pathlib.Path) -> Run:
    """Opens a run as `load` does, but puts its parameters on no device."""
    return (task_model if task_model.is_task_model(folder) else language_model).load(folder)
