"""Asks a model of language questions whose answers are two groups and "unknown"."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.fairness.measured import Measured, beside_random, cell
from lm.fairness import choices, likelihoods
from lm.loading import run as run_lib
from lm.results.forest_plot import Share
from lm.system import safe_text

_CONDITIONS = ("ambiguous", "disambiguated")
_MEASURES = ("accuracy", "bias", "cbbq_bias")
_SCORES = {"sum": np.sum, "mean": np.mean}  # Of the log-likelihoods of an answer's tokens.


def measure(
    folder: pathlib.Path, mesh: Mesh, data: str, *, target_answer: int, batch_size: int, seed: int
) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: questions that are none, or a model that gives no likelihood.
    """
    read = choices.read(data, None if target_answer < 0 else target_answer)
    loaded = run_lib.load(folder, mesh=mesh)
    scorer = likelihoods.make_scorer(loaded, batch_size)
    print(f"{folder} at step {loaded.step}: {scorer.kind}s of {len(read):,} questions", flush=True)
    found = {
        f"{name}, by {score}": choices.compare(read, answers, seed)
        for name, chosen in beside_random(scorer, lambda p: _chosen(scorer, p, read)).items()
        for score, answers in chosen.items()
    }
    _print(found)
    contents = dict(step=loaded.step, likelihood=scorer.kind, results=found)
    return Measured(contents, _panels(found), line=None)


def measure_answers(data: str, field: str, target_answer: int, seed: int) -> Measured:
    """Measures the answers that the questions hold in a field already, whoever gave them.

    Raises:
      UserError: questions that are none, or without this field.
    """
    read = choices.read(data, None if target_answer < 0 else target_answer)
    answers = [choices.answer_of(question, field) for question in read]
    found = {field: choices.compare(read, answers, seed)}
    print(f"{len(read):,} questions, answered in {safe_text.one_line(field)}")
    _print(found)
    return Measured(dict(results=found), _panels(found), line=None)


def _chosen(
    scorer: likelihoods.Scorer, params: Any, read: list[choices.Question]
) -> dict[str, list[int]]:
    """Chooses the likeliest answer of each question behind its context, by each of `_SCORES`."""
    asked = [(choices.prompt(question), question.answers) for question in read]
    _, likely = scorer(params, [(prompt, text) for prompt, texts in asked for text in texts])
    return {
        name: [
            int(np.argmax([total(likely[prompt, text]) for text in texts]))
            for prompt, texts in asked
        ]
        for name, total in _SCORES.items()
    }


def _print(found: Mapping[str, Mapping[str, Any]]) -> None:
    width = max(26, *map(len, found))
    for condition in _CONDITIONS:
        columns = "".join(f"{name:>26}" for name in _MEASURES)
        print(f"\n{condition:<{width}}{columns}  answers that name a group")
        for name, scores in found.items():
            of = scores[condition]
            cells = "".join(f"{cell(of[measure]):>26}" for measure in _MEASURES)
            num = of["num_questions"] - of["num_unanswered"]
            print(f"{safe_text.one_line(name):<{width}}{cells}  {of['num_groups']:,} of {num:,}")
    first = next(iter(found))
    if num := found[first]["num_without_target"]:
        print(f"{num:,} questions do not say whom the bias is about; target_answer may")
    print(f"\n{safe_text.one_line(first)}, bias of each category: " + ", ".join(_CONDITIONS))
    for category, scores in found[first]["by_category"].items():
        cells = "".join(f"{cell(scores[condition]['bias']):>26}" for condition in _CONDITIONS)
        print(f"{cells}  {safe_text.one_line(category)}")


def _panels(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Share]]:
    share = lambda measure, group: Share(measure["value"], measure["interval"], group)
    lines = {name: (scores, 0 if i < 2 else 7) for i, (name, scores) in enumerate(found.items())}
    first = next(iter(found))
    lines |= {category: (scores, 2) for category, scores in found[first]["by_category"].items()}
    return {
        f"{measure}, {condition}": {
            name: share(scores[condition][measure], group)
            for name, (scores, group) in lines.items()
        }
        for condition in _CONDITIONS
        for measure in ("accuracy", "bias")
    }
