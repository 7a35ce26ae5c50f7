"""lm_eval asks a server by its own client, and gets what configs/harness.py says."""

import itertools

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from configs import harness as harness_config
from experiments import harness
from tests import fake_service
from tests.generate_test import FOLDERS, PROMPTS, make_folder, stop_at
from tests.serve_models import open_model

CONTEXTS = [*PROMPTS, "in the thing", "a b c", "He said", "été", "0 1 2 3", "def f(x):"]
CONTINUATIONS = [" thing", "x", " in the", "京是", "q3 q4", " a b c d e f", "\n\tz", ".", "!"]
CONTINUATIONS += [" He"]


@pytest.fixture(scope="module")
def ours_and_served(tmp_path_factory):
    """Two models of lm_eval: ours, and one that asks a server."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    make_folder(folder, *FOLDERS["nothing around, a first"])
    config = harness_config.get_config()
    config.update(checkpoint=str(folder), max_len=95, batch_size=8)
    ours = harness.load(config)
    # Tokens that often come next end texts; a client that counts tokens must still see them.
    first = [ours.tok_encode(text)[0] for text in CONTINUATIONS]
    scored = ours._loglikelihood_tokens(
        [((c, ""), ours.tok_encode(c), [i]) for c in CONTEXTS for i in range(448)]
    )
    greedy = [i % 448 for i, (_, is_greedy) in enumerate(scored) if is_greedy]
    stop_at(folder, [i for i in greedy if i not in first][:3])
    model = open_model("model", folder)
    with fake_service.Served(fake_service.make_app([model])) as served:
        client = LocalCompletionsAPI(
            model="model",
            base_url=f"{served.url}/v1/completions",
            tokenizer=str(folder),
            batch_size=4,
            max_length=96,
            max_retries=1,
        )
        yield harness.load(config), client
    model.service.close()


def instances(kind, arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def test_likelihoods_are_those_of_the_harness(ours_and_served):
    pairs = instances("loglikelihood", itertools.product(CONTEXTS, CONTINUATIONS))
    assert len(pairs) == 120

    ours, served = (model.loglikelihood(pairs) for model in ours_and_served)

    assert [greedy for _, greedy in served] == [greedy for _, greedy in ours]
    likelihoods = lambda answers: [likelihood for likelihood, _ in answers]
    np.testing.assert_allclose(likelihoods(served), likelihoods(ours), atol=1e-5)
    assert any(greedy for _, greedy in ours)


def test_texts_are_those_of_the_harness(ours_and_served):
    wanted = [{"until": [until], "max_gen_toks": 12} for until in ("e", "q")]
    asked = instances("generate_until", itertools.product(CONTEXTS, wanted))

    ours, served = (model.generate_until(asked) for model in ours_and_served)

    assert served == ours
    assert len({*served}) > 10
