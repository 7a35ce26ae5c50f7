"""Asks a classification run of each text twice: as it stands, and with its terms exchanged."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from experiments import evaluate
from experiments.fairness.measured import Measured, cell
from experiments.wiring.classifiers import task_labels
from lm.data.records import Record
from lm.errors import UserError
from lm.fairness import substitution
from lm.inference import predicting
from lm.loading import task_model
from lm.metrics import intervals
from lm.results.forest_plot import Share
from lm.system import safe_text
from lm.tasks.task import Prediction


class _Text(NamedTuple):
    record: Record
    changed: Record
    found: substitution.Substituted

    @property
    def direction(self) -> int:
        """1 from the first group's terms to the second's, -1 back, 0 where both occur."""
        return (self.found.num_second == 0) - (self.found.num_first == 0)


def measure(
    folder: pathlib.Path, mesh: Mesh, data: str, *, words: str, batch_size: int, seed: int
) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: a run of another task, or texts without any term.
    """
    exchanged = substitution.read(words, "words")
    _, labels = task_labels(folder)
    run = task_model.load(folder, sequence_parts=mesh.shape["sequence"], truncate=True)
    records = evaluate.validation_records(run, source="", validation=data, key="data").validation
    fields = [name for name in (run.config["task"].get(x) for x in ("text", "pair")) if name]
    texts = []
    for record in records:
        run.task.read(record)  # Raises where it is none of the task.
        if found := substitution.exchanged(record, fields, exchanged):
            texts.append(_Text(record, *found))
    if not texts:
        raise UserError(
            f"words={words}: none of the {len(records):,} texts holds a term; give others"
        )
    predictor = predicting.make_predictor(run, mesh, batch_size=batch_size)
    before, num_cut = _predictions(predictor, [text.record for text in texts])
    after, _ = _predictions(predictor, [text.changed for text in texts])
    found = _compare(texts, before, after, labels, seed)
    found |= {"num_without_terms": len(records) - len(texts), "num_cut": num_cut}
    print(f"{folder} at step {run.step}: {len(texts):,} of {len(records):,} texts hold a term")
    _print(found)
    drawn = {"predictions that flip": found["flips"]}
    drawn |= {f"change of {label}": each["absolute"] for label, each in found["labels"].items()}
    shares = {
        name: Share(x["value"], x["interval"], i) for i, (name, x) in enumerate(drawn.items())
    }
    return Measured(dict(step=run.step, results=found), {"terms exchanged": shares}, line=0.0)


def _predictions(
    predictor: predicting.Predictor, records: Sequence[Record]
) -> tuple[list[Prediction], int]:
    """Predicts each record, and counts those that were cut."""
    found = list(predictor(records))
    for each in found:
        if isinstance(each.prediction, UserError):
            raise each.prediction
    return [each.prediction for each in found], sum(each.is_cut for each in found)


def _compare(
    texts: Sequence[_Text],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    labels: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Counts predictions that flip, and averages how far the probability of each label moves."""
    chosen = lambda prediction: prediction.get("labels", prediction.get("label"))
    num = sum(chosen(a) != chosen(b) for a, b in zip(before, after, strict=True))
    direction_N = np.array([text.direction for text in texts])
    of_labels = {}
    for label in labels:
        of = lambda predictions, label=label: np.array(
            [prediction["probabilities"][label] for prediction in predictions]
        )
        change_N = of(after) - of(before)
        towards_second_N = (change_N * direction_N)[direction_N != 0]
        of_labels[label] = {
            "absolute": _mean(np.abs(change_N), seed),
            "towards_second": _mean(towards_second_N, seed),
        }
    return {
        "num_texts": len(texts),
        "num_mixed": int((direction_N == 0).sum()),
        "num_terms": sum(text.found.num_first + text.found.num_second for text in texts),
        "num_ambiguous": sum(text.found.num_ambiguous for text in texts),
        "flips": {"value": num / len(texts), "interval": intervals.wilson(num, len(texts))},
        "labels": of_labels,
    }


def _mean(values_N: np.ndarray, seed: int) -> dict[str, Any]:
    value = float(values_N.mean()) if len(values_N) else None
    return {"value": value, "interval": intervals.bootstrap_mean(values_N, seed)}


def _print(found: Mapping[str, Any]) -> None:
    print(
        f"{found['num_terms']:,} terms, {found['num_ambiguous']:,} of them by what follows; "
        f"{found['num_mixed']:,} texts with terms of both groups; {found['num_cut']:,} cut"
    )
    print(f"\n{'predictions that flip':>40} {cell(found['flips'])}")
    for label, measures in found["labels"].items():
        for name, said in (("absolute", "change"), ("towards_second", "from first to second")):
            line = f"{cell(measures[name]):>28}  {said}, probability of {label}"
            print(safe_text.one_line(line))
