"""Every kind of model and objective through the experiments, from text to metrics."""

import json
import re

import jax
import numpy as np
import pytest

from configs import evaluate as evaluate_config
from configs import families
from configs import generate as generate_config
from experiments import convert, evaluate, generate, pretrain
from experiments.wiring import init_from, pretraining
from lm.corpus.batches import Batches
from lm.errors import UserError

CONFIGS = {
    "bert": lambda: families.get_config("family=bert,optimizer=adamw,debug"),
    "t5": lambda: families.get_config("family=t5,optimizer=adamw,debug"),
}


def make_config(name, corpus):
    config = CONFIGS[name]()
    config.data.update(corpus, source="text")
    config.tokenizer.vocab_size = config.model.vocab_size = 512
    return config


@pytest.fixture(scope="module", params=["bert", "t5"])
def trained(request, corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    pretrain.run(make_config(request.param, corpus), workdir)
    return workdir


def test_evaluating_asks_the_same_for_any_batch_size(trained, capsys):
    config = evaluate_config.get_config()
    config.update(checkpoint=str(trained))
    config.data.batch_size = 3

    evaluate.run(config, None)

    lines = [json.loads(x) for x in (trained / "metrics.jsonl").read_text().splitlines()]
    printed = capsys.readouterr().out
    logged = [line for line in lines if "eval/loss" in line][-1]
    assert float(re.search(r"eval/loss ([\d.]+)", printed)[1]) == pytest.approx(
        logged["eval/loss"], abs=2e-6
    )
    assert "eval/bits_per_byte not given" in printed and "eval/bits_per_byte" not in logged
    tokens = [line["train/tokens"] for line in lines if "train/tokens" in line]
    assert 4 * 16 * 64 * 0.9 < tokens[-1] <= 4 * 16 * 64


@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_has_a_decoder_writes(trained, num_beams, capsys):
    config = generate_config.get_config()
    config.update(checkpoint=str(trained), prompt="def ", max_new_tokens=4, num_beams=num_beams)
    config.num_samples = 2

    if "bert" in str(trained):
        with pytest.raises(UserError, match="an encoder, which writes nothing"):
            generate.run(config, None)
    else:
        generate.run(config, None)
        assert "prompt 1, sample 2" in capsys.readouterr().out


def test_runs_are_exported_and_come_back_the_same(trained, tmp_path):
    import transformers

    from configs import convert as convert_config
    from lm.loading import language_model

    for source, target in ((trained, tmp_path / "hf"), (tmp_path / "hf", tmp_path / "back")):
        config = convert_config.get_config()
        config.update(source=str(source), target=str(target))
        convert.run(config, None)

    before, after = (language_model.load(w) for w in (trained, tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert before.config["model"] == after.config["model"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    (ids,) = before.tokenizer.encode_batch(["def f(x):\n    return x"])
    assert tokenizer("def f(x):\n    return x", add_special_tokens=False).input_ids == ids.tolist()


def test_micro_batches_make_the_same_update_as_the_batch(corpus):
    updated = []
    for accumulate_steps in (1, 2):
        config = make_config("bert", corpus)
        config.train.accumulate_steps = accumulate_steps
        parts = pretraining.make_parts(config)
        prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
        objective = pretraining.make_objective(config.objective, parts.model, prepared)
        abstract = pretraining.abstract_state(parts)
        step, place = pretraining.make_step(parts, objective, abstract)
        rows = Batches(prepared, "train", batch_size=16, seed=0).batch_at(0)
        state = init_from.make_state("", parts, abstract)(config.seed)
        state, metrics = step(state, place(rows), key=jax.random.key(0))
        updated.append((state.params, float(metrics["loss"]), float(metrics["grad_norm"])))

    (one, *metrics), (two, *others) = updated
    np.testing.assert_allclose(metrics, others, rtol=1e-5)
    # The first update of Adam has one size wherever the gradient is not nearly zero.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), one, two)


BAD = {
    "a sample of an encoder": ({"eval.sample_tokens": 8}, "only decoders write samples"),
    "an objective for others": ({"objective.kind": "causal"}, "trains an encoder; choose masked"),
    "a rate above one": ({"objective.rate": 1.5}, "objective.rate=1.5"),
    "a tokenizer without a mask": ({"tokenizer.mask": False}, r"tokenizer\.mask=True"),
    "a kernel that looks back only": ({"model.attention": "blocked"}, "what follows it"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(name, corpus, tmp_path):
    changes, message = BAD[name]
    config = make_config("bert", corpus)
    config.update_from_flattened_dict(changes)

    with pytest.raises(UserError, match=message):
        pretrain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
