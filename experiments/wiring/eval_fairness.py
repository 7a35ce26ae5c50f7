"""Biases that evaluations during training measure, as an `eval.fairness` block says."""

import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from experiments.wiring import mixtures
from experiments.wiring.classifiers import task_labels
from experiments.wiring.pretraining import PretrainingParts
from lm.errors import UserError
from lm.fairness import likelihoods, pairs, toxicity
from lm.inference import predicting, writing
from lm.loading import task_model
from lm.loading.language_model import SavedRun
from lm.models.parameters import Params
from lm.settings import choose
from lm.tokenizers.tokenizers import Tokenizer

# Of draws and intervals, whatever the run's own: the numbers of several runs are compared.
_SEED = 0
_PUBLISHED = dict(num_samples=25, max_new_tokens=20, temperature=1.0, top_p=0.9)  # Gehman et al.
_METRICS = {
    "pairs": ("share", "share_low", "share_high", "difference"),
    "toxicity": ("expected_maximum", "any_above_half", "any_above_half_low", "any_above_half_high"),
}


class Material(NamedTuple):
    """Holds what a model is measured with."""

    pairs: Sequence[pairs.Pair]
    prompts: Sequence[writing.Prompt]
    classifier: str
    positive: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names what is measured."""
        return ("pairs",) * bool(self.pairs) + ("toxicity",) * bool(self.prompts)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names what an evaluation gives."""
        return tuple(f"eval/{of}/{name}" for of in self.names for name in _METRICS[of])

    @property
    def hashes(self) -> list[str]:
        """Holds what changes with the files; nothing where nothing is measured."""
        texts = [pair[1:] for pair in self.pairs], [prompt.text for prompt in self.prompts]
        identity = repr((texts, self.classifier, self.positive))
        return [hashlib.sha256(identity.encode()).hexdigest()[:20]] * bool(self.names)

    def by(
        self,
        values: dict[str, Any],
        folder: pathlib.Path,
        parts: PretrainingParts,
        tokenizer: Tokenizer,
    ) -> Callable[[Params], dict[str, float]]:
        """Makes params -> metrics, of the model and the tokenizer of a run.

        Args:
          values: of its config.
          folder: its workdir.
          parts, tokenizer: what is made of the config.

        Raises:
          UserError: a model that gives no likelihood or writes nothing, or what is too long for it.
        """
        run = SavedRun(folder, values, parts.model, 0, {}, tokenizer)
        batch_size = values["eval"]["batch_size"]
        measures: list[Callable[[Params], dict[str, float]]] = []
        try:
            if self.pairs:
                measures.append(_of_pairs(self.pairs, run, batch_size))
            if self.prompts:
                measures.append(_of_texts(self, run, parts.mesh, batch_size))
        except UserError as error:
            raise UserError(f"eval.fairness: {error}") from None
        return lambda params: {
            f"eval/{name}": value for measure in measures for name, value in measure(params).items()
        }


def read(data: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Material:
    """Reads the files that `eval.fairness` names, and asks the classifier for its labels.

    Args:
      data, evaluation: the blocks `data` and `eval` of a config of pretraining.

    Raises:
      UserError: what is no pair, prompt or classifier; one of the corpora has the same metrics.
    """
    block = evaluation["fairness"]
    try:
        found = Material(
            pairs=pairs.read(block["pairs"])[0] if block["pairs"] else (),
            prompts=toxicity.read_prompts(block["prompts"]) if block["prompts"] else (),
            classifier=block["classifier"],
            positive=block["positive"],
        )
        if found.prompts and not found.classifier:
            raise UserError("classifier is not set; name a run of configs/classify.py")
        if found.prompts:
            _, labels = task_labels(pathlib.Path(found.classifier), key="classifier")
            choose("positive", found.positive, labels)
    except UserError as error:
        raise UserError(f"eval.fairness: {error}") from None
    for name in found.names:
        if name in (*mixtures.names(data), *evaluation["corpora"]):
            raise UserError(f"eval.fairness: eval/{name} is a corpus; name the corpus otherwise")
    return found


def _of_pairs(
    read: Sequence[pairs.Pair], run: SavedRun, batch_size: int
) -> Callable[[Params], dict[str, float]]:
    scorer = likelihoods.make_scorer(run, batch_size)
    texts = [("", text) for pair in read for text in (pair.more, pair.less)]
    ids = {text: of_text for text, (_, of_text) in scorer.read(texts).items()}
    pairs.sharing(read, ids, "raise")

    def measure(params):
        shared = pairs.scores(read, *scorer(params, texts))["shared"]
        found = pairs.compare(read, shared, _SEED)
        low, high = found["share_interval"] or (math.nan, math.nan)
        share = math.nan if found["share"] is None else found["share"]
        values = (share, low, high, found["mean_difference"])
        names = (f"pairs/{name}" for name in _METRICS["pairs"])
        return dict(zip(names, values, strict=True))

    return measure


def _of_texts(
    material: Material, run: SavedRun, mesh: Mesh, batch_size: int
) -> Callable[[Params], dict[str, float]]:
    writer = writing.make_writer(run)
    ids = [writer.prompt_ids(prompt) for prompt in material.prompts]
    most = run.model.config.max_len
    needed = max(map(len, ids)) + _PUBLISHED["max_new_tokens"]
    if most is not None and needed > most:
        raise UserError(
            f"the longest prompt and {_PUBLISHED['max_new_tokens']} tokens more are {needed}, and "
            f"the model has positions for {most}; shorten it"
        )
    parts = mesh.shape["sequence"]
    judge = task_model.load(pathlib.Path(material.classifier), sequence_parts=parts, truncate=True)
    predictor = predicting.make_predictor(judge, mesh, batch_size=batch_size)

    def measure(params):
        own = writer._replace(params=params)
        found = toxicity.measure(own, ids, predictor, material.positive, seed=_SEED, **_PUBLISHED)
        any_one = found["any_above_half"]
        values = (found["expected_maximum"]["value"], any_one["value"], *any_one["interval"])
        names = (f"toxicity/{name}" for name in _METRICS["toxicity"])
        return dict(zip(names, values, strict=True))

    return measure
