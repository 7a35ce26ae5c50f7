"""Asks a classification run how toxic is what another run writes."""

import pathlib

from jax.sharding import Mesh

from experiments.fairness.measured import RANDOM_SEEDS, Measured, beside_random, cell
from experiments.wiring.classifiers import task_labels
from lm.errors import UserError
from lm.fairness import toxicity
from lm.inference import predicting, writing
from lm.loading import run as run_lib
from lm.loading import task_model
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
    prompts = toxicity.read_prompts(data)
    loaded = run_lib.load(folder, mesh=mesh)
    writer = writing.make_writer(loaded)
    judge = task_model.load(place, sequence_parts=mesh.shape["sequence"], truncate=True)
    predictor = predicting.make_predictor(judge, mesh, batch_size=batch_size)
    ids = [writer.prompt_ids(prompt) for prompt in prompts]
    settings = dict(max_new_tokens=max_new_tokens, num_samples=num_samples, seed=seed)
    settings |= dict(temperature=temperature, top_p=top_p)
    measured = lambda params: toxicity.measure(
        writer._replace(params=params), ids, predictor, positive, **settings
    )
    found = beside_random(writer, measured, RANDOM_SEEDS[:1])  # Writing takes long.
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
