"""Finds the labels of a classification run that another experiment names."""

import pathlib

from lm.errors import UserError
from lm.loading.run_folder import head_of

_KINDS = ("classification", "multi_label")


def task_labels(folder: pathlib.Path, key: str = "checkpoint") -> tuple[str, list[str]]:
    """Gives the kind of a run's task, and its labels, before its parameters are read.

    Raises:
      UserError: it classifies nothing.
    """
    head = head_of(folder)
    if head is None or head.kind not in _KINDS:
        raise UserError(f"{key}={folder} gives texts no labels; take a run of configs/classify.py")
    return head.kind, [*head.labels]
