"""Texts that share a row are computed as alone: losses, gradients and what is said of each."""

import json

import jax
import numpy as np
import pytest

from configs import chat, classify, tag
from experiments import finetune
from lm.data.examples import lay_out, outputs_by_example
from lm.loading import task_model

RECIPES = {
    "classification by an encoder": (classify, "model=bert,debug"),
    "classification by a decoder": (classify, "model=gpt2,debug"),
    "classification by an encoder-decoder": (classify, "model=t5,debug"),
    "tags": (tag, "model=bert,debug"),
    "dialogue": (chat, "model=llama,debug"),
}


_LENGTHS = (2, 9, 4, 14, 1)  # Words of the texts.


def _record(kind, num_words):
    words = [f"w{i}" for i in range(num_words)]
    if kind == "tagging":
        return {"tokens": words, "tags": ["B-a" if i % 3 else "O" for i in range(num_words)]}
    if kind == "chat":
        turns = ("user", "a " * num_words), ("assistant", " ".join(words))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}
    return {"text": " ".join(words), "label": "long" if num_words > 5 else "short"}


@pytest.mark.parametrize("name", RECIPES)
def test_texts_that_share_a_row_are_computed_as_alone(name, tmp_path):
    recipe, arg = RECIPES[name]
    config = recipe.get_config(f"{arg},tokenizer=bytes")
    rows = [_record(config.task.kind, n) for n in _LENGTHS]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config.data.update(train=str(file), validation=str(file), seq_len=160)
    config.model.update(num_layers=2, num_heads=2, head_dim=8, model_dim=16, mlp_dim=32)
    if "num_kv_heads" in config.model:
        config.model.num_kv_heads = 1
    config, data = finetune.read(config)
    task, model = data.task, task_model.make_model(config, data.task)
    params = jax.jit(lambda key: task.objective.init_params(model, key))(jax.random.key(0))
    # Noise, so that no gradient is zero by symmetry.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), params)
    examples = data.train.examples
    lengths = task.layout.lengths(examples, 32)

    def loss(params, batch):
        sums = task.objective.loss(model, params, batch, None)
        return sums["loss"], sums

    @jax.jit
    def of_batch(params, batch):
        (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        return (sums, grads), task.objective.outputs(model, params, batch)

    def computed(some):
        sizes = dict(multiple=32, row_multiple=4, lengths=lengths)
        batch, rows = lay_out(some, task.layout, **sizes)
        summed, outputs = jax.device_get(of_batch(params, batch))
        return summed, outputs_by_example([(rows, outputs)], some, task.layout), rows

    together, outputs, rows = computed(examples)
    alone = [computed([example]) for example in examples]

    assert max(map(len, rows)) > 1
    summed = jax.tree.map(lambda *x: sum(x), *[each[0] for each in alone])
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    for i, (_, own, _) in enumerate(alone):
        for key in own[0]:
            np.testing.assert_allclose(outputs[i][key], own[0][key], rtol=1e-4, atol=1e-4)
