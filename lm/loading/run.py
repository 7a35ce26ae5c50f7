"""Opens a run of any kind."""

import os
import pathlib

from lm.loading import language_model, task_model

Run = language_model.SavedRun | task_model.SavedTaskModel


def load(folder: str | os.PathLike[str]) -> Run:
    """Opens a run, finished or not, or a folder of `transformers` as if it were one.

    Args:
      folder: of a run that was pretrained, fine-tuned or converted; or of `transformers`, which may
        have the head of a task.

    Returns:
      Its config, model, parameters and tokenizer, at its best checkpoint where its config names a
      metric, else at the newest; of a fine-tuned run also its task, with adapters merged.

    Raises:
      UserError: it is neither, has no checkpoint, or its files do not fit each other.
    """
    folder = pathlib.Path(folder)
    return (task_model if task_model.is_task_model(folder) else language_model).load(folder)
