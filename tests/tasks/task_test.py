"""What a task must have, and what it may leave to the defaults."""

import pytest

from lm.models.families import FAMILIES
from lm.tasks.classification import Number, OneLabel, TextTask
from lm.tasks.language import NextToken
from lm.tasks.task import Task, TaskObjective
from lm.tasks.text import TextInputs
from lm.tokenizers.tokenizers import ByteTokenizer

TARGETS = [
    Number(label="score"),
    OneLabel(labels=("a", "b"), class_weights=(1.0, 1.0), label="label"),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_a_task_of_texts_has_all_that_a_task_has_and_reports_as_its_target(target):
    inputs = TextInputs(ByteTokenizer(), FAMILIES["bert"], num_types=1, seq_len=8, truncate=True)
    task = TextTask(inputs, target, text="text", pair="")

    of_protocols = {name for each in Task.__mro__ for name in getattr(each, "__annotations__", {})}
    asked = of_protocols | {name for name in dir(Task) if not name.startswith("_")}
    assert {name for name in asked if not hasattr(task, name)} == set()
    for name in ("metrics", "gold", "score", "by_label", "baselines", "pictures"):
        assert getattr(task, name) == getattr(target, name)


def test_an_objective_without_one_of_its_methods_is_none():
    class Preference(TaskObjective):
        module, init_params, loss = NextToken.module, NextToken.init_params, NextToken.loss

    with pytest.raises(TypeError, match="outputs"):
        Preference()
