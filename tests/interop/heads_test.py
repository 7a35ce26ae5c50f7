"""Task models beside those of `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import bert
from lm.errors import UserError
from lm.interop import exported_folder
from lm.interop import heads as heads_lib
from lm.models import heads
from lm.models.factory import make_model
from lm.models.families import FAMILIES

CLASSES = {
    "classification": transformers.AutoModelForSequenceClassification,
    "multi_label": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "tagging": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
}
LABELS = {
    "classification": ("差", "good", "neutral"),
    "multi_label": ("a", "b"),
    "tagging": ("O", "B-PER", "I-PER", "B-LOC"),
}


@pytest.mark.parametrize("position_offset", [0, 2], ids=["bert", "roberta"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_head_is_read_by_transformers_and_says_the_same(kind, position_offset, tmp_path, capsys):
    config = bert.get_config("debug")
    config.model.update(
        vocab_size=61,
        dtype="float32",
        attention="einsum",
        next_sentence=False,
        position_offset=position_offset,
    )
    block = config.model.to_dict()
    body = FAMILIES["bert"].body(make_model(config.model, causal=False).config)
    labels = LABELS.get(kind, ())
    if kind in ("tagging", "question_answering"):
        model = heads.TokenHead(body, len(labels) or 2)
    else:
        model = heads.SequenceHead(body, heads.FirstToken(jnp.float32), len(labels) or 1)
    tokens_BL = jnp.asarray(np.random.default_rng(0).integers(5, 61, (2, 13)))
    types_BL = jnp.asarray(np.arange(13)[None] > [[5], [9]], jnp.int32)
    inputs = dict(
        tokens_BL=tokens_BL,
        segment_ids_BL=jnp.ones_like(tokens_BL),
        positions_BL=jnp.broadcast_to(jnp.arange(13), (2, 13)),
        types_BL=types_BL,
    )
    inputs = (inputs,) if isinstance(model, heads.TokenHead) else (inputs, jnp.full((2, 1), 13))
    flat = flatten_dict(model.init(jax.random.key(0), *inputs)["params"])
    noise = np.random.default_rng(1).standard_normal
    params = unflatten_dict({p: x + 0.3 * noise(x.shape, np.float32) for p, x in flat.items()})
    found = np.asarray(model.apply({"params": params}, *inputs))
    found = found if isinstance(model, heads.TokenHead) else found[:, 0]

    family = heads_lib.with_head(block, kind, labels)
    exported_folder.save_config(tmp_path, family, block, "float32", {"pad_token_id": 1}, (), {})
    exported_folder.save_weights(tmp_path, family, block, params, "float32")
    reference, loading = CLASSES[kind].from_pretrained(tmp_path, output_loading_info=True)
    with torch.no_grad():
        expected = reference.eval()(
            input_ids=torch.tensor(np.array(tokens_BL)),
            token_type_ids=torch.tensor(np.array(types_BL)),
        )

    assert not any(loading.values()), loading
    if kind == "question_answering":
        np.testing.assert_allclose(found[..., 0], expected.start_logits, atol=1e-4)
        np.testing.assert_allclose(found[..., 1], expected.end_logits, atol=1e-4)
    else:
        np.testing.assert_allclose(found, expected.logits, atol=1e-4)
        assert reference.config.num_labels == (len(labels) or 1)
    if labels:
        assert tuple(reference.config.id2label.values()) == labels
    assert np.abs(found).max() > 0.5


def test_a_head_that_transformers_has_not_is_refused():
    with pytest.raises(UserError, match=r"no gpt2 with the head of task\.kind=question_answering"):
        heads_lib.with_head({"name": "gpt2"}, "question_answering", ())
