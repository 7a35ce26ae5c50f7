"""Asks a classification run how toxic is what another run writes."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments.fairness.groups import task_labels
from experiments.fairness.measured import RANDOM_SEEDS, Measured, cell
from lm.errors import UserError
from lm.fairness import toxicity
from lm.fairness.records import lines_of, records_of, text_of
from lm.formats import files, formats
from lm.formats.fields import Record
from lm.inference import predicting, writing
from lm.loading import run as run_lib
from lm.loading import task_model
from lm.models.families import random_like
from lm.results.forest_plot import Share
from lm.settings import choose

_MEASURES = ("expected_maximum", "any_above_half", "above_half", "mean")


def measure(
    folder: pathlib.Path,
    mesh: Mesh,
    data: str,
    *,
    classifier: str,
    positive: str,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    batch_size: int,
    seed: int,
) -> Measured:
    """Measures and prints; see `configs/fairness.py` for the settings.

    Raises:
      UserError: a run that writes nothing, a classifier that is none, or prompts that are none.
    """
    if not classifier:
        raise UserError(
            "classifier is not set; name a run of configs/classify.py: --config.classifier=RUN"
        )
    place = pathlib.Path(classifier)
    _, labels = task_labels(place, key="classifier")
    choose("positive", positive, labels)
    prompts = read_prompts(data)
    loaded = run_lib.load(folder, mesh=mesh)
    writer = writing.make_writer(loaded)
    judge = task_model.load(place, sequence_parts=mesh.shape["sequence"], truncate=True)
    predictor = predicting.make_predictor(judge, mesh, batch_size=batch_size)
    ids = [writer.prompt_ids(prompt) for prompt in prompts]
    settings = dict(max_new_tokens=max_new_tokens, num_samples=num_samples, seed=seed)
    settings |= dict(temperature=temperature, top_p=top_p)
    found = {}
    number = RANDOM_SEEDS[0]
    for name, params in (
        ("this model", writer.params),
        (f"random weights {number}", random_like(writer.model, writer.params, number)),
    ):
        written = writing.write(writer._replace(params=params), ids, **_SETTINGS, **settings)
        texts = [[sample.text.strip() for sample in samples] for samples in written]
        probability_PK = _judge(predictor, texts, positive)
        found[name] = toxicity.summary(probability_PK, seed)
        found[name]["num_empty"] = sum(not text for of_one in texts for text in of_one)
    print(f"{folder} at step {loaded.step}: {len(prompts):,} prompts, {num_samples} texts of each")
    print(f"{'':>20}" + "".join(f"{name:>28}" for name in found))
    for name in _MEASURES:
        print(f"{name:>20}" + "".join(f"{cell(of[name]):>28}" for of in found.values()))
    print(f"{'empty texts':>20}" + "".join(f"{of['num_empty']:>28,}" for of in found.values()))
    share = lambda of, name, group: Share(of[name]["value"], of[name]["interval"], group)
    panels = {
        name: {who: share(of, name, 7 * i) for i, (who, of) in enumerate(found.items())}
        for name in _MEASURES
    }
    return Measured(dict(step=loaded.step, results=found), panels, line=None)


# What `writing.write` takes besides.
_SETTINGS: dict[str, Any] = dict(
    stop=(), top_k=0, min_p=0.0, repetition_penalty=1.0, num_beams=1, length_penalty=1.0, draft=""
)


def read_prompts(data: str) -> list[writing.Prompt]:
    """Reads prompts: a line each, or records with `prompt`, as RealToxicityPrompts has them.

    Raises:
      UserError: there is none, or a record without one.
    """
    if not data:
        raise UserError("data is not set; name a file of prompts: --config.data=prompts.txt")
    records: list[Record] = []
    for path in files.find("", data, key="data"):
        if formats.is_known(path):
            records += records_of(str(path), "prompt")
        else:
            records += [
                Record(line.name, {"prompt": line.fields["text"]}) for line in lines_of(path)
            ]
    if not records:
        raise UserError(f"data={data!r} holds no prompt; give it some")
    return [writing.Prompt(record.name, _text(record), {}) for record in records]


def _text(record: Record) -> str:
    nested = record.fields.get("prompt")
    if isinstance(nested, dict):
        return text_of(Record(record.name, nested), "text")
    return text_of(record, "prompt")


def _judge(
    predictor: predicting.Predictor, texts: Sequence[Sequence[str]], positive: str
) -> np.ndarray:
    """Gives the probability of each text to be positive, P x K; that of an empty one is 0."""
    flat = [(text, f"text {i + 1}") for i, text in enumerate(t for of_one in texts for t in of_one)]
    records = [predictor.task.from_text(name, text) for text, name in flat if text]
    found = iter(predictor(records))
    probabilities = []
    for text, _ in flat:
        said = next(found).prediction if text else {"probabilities": {positive: 0.0}}
        if isinstance(said, UserError):
            raise said
        probabilities.append(said["probabilities"][positive])
    return np.array(probabilities).reshape(len(texts), -1)
