"""Runs with a base shape: opened, carried to `transformers`, gone on from, fine-tuned."""

import types

import jax
import numpy as np
import pytest
import torch
import transformers

from configs import classify, families
from configs import convert as convert_config
from experiments import convert
from experiments.wiring import init_from
from lm.data.examples import RowLayout
from lm.errors import UserError
from lm.loading import language_model, task_model
from lm.models import mup
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.tokenizers.tokenizers import ByteTokenizer

BASE = dict(mup_model_dim=4, mup_num_heads=1, mup_head_dim=2, mup_mlp_dim=16)


def make_config(family, **model):
    config = families.get_config(f"family={family},tokenizer=bytes,debug")
    config.model.update(vocab_size=300, dtype="float32", **model)
    return config


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_transformers_gives_the_logits_of_the_run(family, random_like, tmp_path):
    config = make_config(family, **BASE)
    model = make_model(config.model, causal=True)
    params = random_like(param_shapes(model), scale=0.4)
    made = convert.Model(config.model.to_dict(), params, "float32", ByteTokenizer())
    convert.write_run(tmp_path / "run", made, source="random")
    carry = convert_config.get_config()
    carry.update(source=str(tmp_path / "run"), target=str(tmp_path / "hf"))
    assert convert.run(carry, tmp_path) == 0

    run = language_model.load(tmp_path / "run")
    tokens_BL = np.arange(3, 14)[None]
    inputs = tokens_BL, np.arange(11)[None], np.ones_like(tokens_BL)
    logits_BLV = jax.jit(run.model.apply)({"params": run.params}, *inputs).logits()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        their_logits_BLV = theirs(torch.tensor(tokens_BL)).logits.numpy()

    assert mup.growth(run.model.config)["K"] == 4
    np.testing.assert_allclose(their_logits_BLV, logits_BLV, atol=1e-4)
    assert np.abs(logits_BLV).max() > 0.1


@pytest.mark.parametrize("there", [True, False])
def test_a_run_goes_on_only_with_the_multipliers_that_it_was_trained_with(
    there, random_like, tmp_path
):
    blocks = [make_config("gpt2", **BASE).model.to_dict(), make_config("gpt2").model.to_dict()]
    block = blocks[0 if there else 1]
    params = random_like(param_shapes(make_model(make_config("gpt2").model, causal=True)))
    made = convert.Model(block, params, "float32", ByteTokenizer())
    convert.write_run(tmp_path / "run", made, source="random")
    same = make_model(make_config("gpt2", **(BASE if there else {})).model, causal=True)
    other = make_model(make_config("gpt2", **({} if there else BASE)).model, causal=True)

    folder = str(tmp_path / "run")
    init_from.check(folder, same, params, ByteTokenizer())
    with pytest.raises(UserError, match=r"init_from=.*other multipliers of muP"):
        init_from.check(folder, other, params, ByteTokenizer())


def test_fine_tuning_begins_from_a_run_that_has_a_base_shape():
    config = classify.get_config("model=gpt2,debug")
    config.model.update(BASE)
    task = types.SimpleNamespace(layout=RowLayout({}))

    with pytest.raises(UserError, match=r"model\.mup_model_dim=4 is about pretraining"):
        task_model.make_model(config, task)
