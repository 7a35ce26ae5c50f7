"""Compares what a classification run does with groups of the examples that it is evaluated on."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments import evaluate
from experiments.fairness.measured import Measured, cell
from experiments.wiring.classifiers import task_labels
from lm.data.records import Record
from lm.errors import UserError
from lm.fairness import groups
from lm.formats.fields import kind_of
from lm.results import forest_plot
from lm.results.forest_plot import Share
from lm.settings import choose
from lm.system import safe_text
from lm.tasks.labels import field


def measure(
    folder: pathlib.Path,
    mesh: Mesh,
    data: str,
    *,
    group: str,
    positive: str,
    batch_size: int,
    seed: int,
) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: a run of another task, a label that it does not know, or a record without group.
    """
    fields = [name.strip() for name in group.split(",") if name.strip()]
    if not fields:
        raise UserError("group is not set; name the field of groups: --config.group=gender")
    kind, names = task_labels(folder)
    labels = [choose("positive", positive, names)] if positive else names
    settings = dict(task={}, source="", validation=data, key="data", batch_size=batch_size)
    found = evaluate.evaluate_task(folder, mesh, **settings)
    groups_of = {name: [_group(record, name) for record in found.records] for name in fields}
    gold = [found.run.task.gold(record) for record in found.records]
    has = lambda label: (
        np.array([_has(x, label) for x in gold]),
        np.array([_has(x, label) for x in found.predictions]),
    )
    results = {
        name: {label: groups.compare(*has(label), groups_of[name], seed) for label in labels}
        for name in fields
    }
    print(f"{folder} at step {found.run.step}: {kind} of {len(gold):,} examples")
    for name, by_label in results.items():
        for label, compared in by_label.items():
            _print(name, label, compared)
    return Measured(dict(step=found.run.step, results=results), _panels(results), line=None)


def _group(record: Record, name: str) -> str:
    """Returns the group of a record as text."""
    value = field(record, name)
    if not isinstance(value, str | int) or not str(value).strip():
        what = "empty" if isinstance(value, str) else kind_of(value)
        raise UserError(f"{record.name}: the group {name!r} is {what}; name one, or leave it out")
    return str(value).strip()


def _has(prediction: Mapping[str, Any], label: str) -> bool:
    return label in prediction.get("labels", [prediction.get("label")])


def _print(name: str, label: str, compared: Mapping[str, Any]) -> None:
    print(f"\npositive: {safe_text.one_line(label)}")
    print("".join(f"{metric:>24}" for metric in groups.METRICS) + f"{'examples':>10}  {name}")
    for group, measures in compared["by_group"].items():
        cells = "".join(f"{cell(measures[metric]):>24}" for metric in groups.METRICS)
        small = f", fewer than {groups.SMALL}" if measures["small"] else ""
        print(f"{cells}{measures['num']:>10,}  {safe_text.one_line(group)}{small}")
    between = compared["between_groups"]
    for of in ("demographic_parity", "equalized_odds"):
        for measured in ("difference", "ratio"):
            one = between[f"{of}_{measured}"]
            reason = f"  not defined: {one['reason']}" if one["value"] is None else ""
            print(safe_text.one_line(f"{of + '_' + measured:>30} {cell(one)}{reason}").rstrip())


def _panels(results: Mapping[str, Mapping[str, Any]]) -> forest_plot.Panels:
    lines = [
        (f"{label}: {name}={group} ({measures['num']})", measures, i)
        for name, by_label in results.items()
        for i, (label, compared) in enumerate(by_label.items())
        for group, measures in compared["by_group"].items()
    ]
    share = lambda measure, i: Share(measure["value"], measure["interval"], i)
    return {
        metric: {title: share(measures[metric], i) for title, measures, i in lines}
        for metric in groups.METRICS
    }
