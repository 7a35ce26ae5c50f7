"""Lenses beside final norm and output of `transformers`, and what training makes of them.

Dimension key: N layers, B batch, L length, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lm.errors import UserError
from lm.formats.fields import Record
from lm.interpret import lens, subject
from tests import interpret_folders

TEXT = "The cat 北京 sat."


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(kind) -> the subject, and the model of transformers."""

    @functools.cache
    def of(kind):
        folder = tmp_path_factory.mktemp(kind)
        reference = interpret_folders.save(kind, folder)
        return subject.open_subject(folder), reference

    return of


def read(one, text, target=""):
    (found,) = subject.read(one, Record(text, {"text": text, "target": target}), is_whole=False)
    return found


def logits_of_theirs(kind, reference, text):
    """lm_head(ln_f(h)) of the residual stream as it was embedded and behind each block."""
    ids = {side: torch.tensor(x.ids_L[None]).long() for side, x in text.sides.items()}
    places = {
        "gpt2": lambda m: (m.transformer.h, m.transformer.ln_f, 1.0),
        "llama": lambda m: (m.model.layers, m.model.norm, 1.0),
        "t5": lambda m: (m.decoder.block, m.decoder.final_layer_norm, m.config.d_model**-0.5),
    }
    blocks, norm, scale = places[kind](reference)
    streams = []
    keep = lambda x: streams.append((x[0] if isinstance(x, tuple) else x).detach())
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args: keep(args[0]))]
    hooks += [block.register_forward_hook(lambda _, args, out: keep(out)) for block in blocks]
    with torch.no_grad():
        if kind == "t5":
            reference(input_ids=ids["encoder/"], decoder_input_ids=ids["decoder/"])
        else:
            reference(input_ids=ids[""])
        for hook in hooks:
            hook.remove()
        return torch.stack([reference.lm_head(norm(x) * scale)[0] for x in streams]).numpy()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_every_layer_is_read_by_the_models_own_norm_and_output(kind, opened):
    one, reference = opened(kind)
    text = read(one, TEXT, "the dog")
    expected_NLV = logits_of_theirs(kind, reference, text)

    @jax.jit
    def logits(params, inputs):
        x_NBLD = lens.streams(one.model, params, inputs)
        last, _ = subject.run_model(one.model, params, inputs)
        return jax.lax.map(lambda x: lens.lens_logits(one.model, params, x), x_NBLD), last

    found_NBLV, last_BLV = logits(one.params, text.inputs)
    reading = lens.read_lens(one, text)

    L = expected_NLV.shape[1]
    assert np.abs(expected_NLV).max() > 0.5
    np.testing.assert_allclose(found_NBLV[:, 0, :L], expected_NLV, atol=1e-4)
    np.testing.assert_allclose(found_NBLV[-1], last_BLV, atol=1e-5)
    log_probs = torch.log_softmax(torch.tensor(expected_NLV), dim=-1).numpy()
    kl_NL = (np.exp(log_probs[-1:]) * (log_probs[-1:] - log_probs)).sum(axis=-1)
    np.testing.assert_allclose(reading.kl_NL, kl_NL, atol=1e-4)
    np.testing.assert_array_equal(reading.top_NLK[..., 0], expected_NLV.argmax(axis=-1))
    np.testing.assert_allclose(reading.probs_NLK[..., 0], np.exp(log_probs).max(axis=-1), rtol=1e-3)


def test_a_tuned_lens_begins_as_the_logit_lens_and_ends_nearer_to_the_output(opened):
    one, _ = opened("gpt2")
    zeros = lens.zero_translators(one)
    x_BLD = jax.random.normal(jax.random.key(0), (2, 5, 16))
    same = lens._translated(x_BLD, zeros["kernel"][0], zeros["bias"][0])
    np.testing.assert_array_equal(same, x_BLD)
    training = [read(one, text) for text in ("the dog saw", "The mat sat on", "cat 北京 the")]
    held_out = read(one, TEXT)

    translators = lens.train_translators(one, training, num_steps=60, peak_lr=1e-2, batch_size=2)

    before, after = lens.read_lens(one, held_out), lens.read_lens(one, held_out, translators)
    assert (after.kl_NL.mean(axis=1)[:-1] < before.kl_NL.mean(axis=1)[:-1]).all()
    np.testing.assert_array_equal(after.kl_NL[-1], before.kl_NL[-1])
    assert not jnp.any(translators["kernel"][-1]) and jnp.any(translators["kernel"][0])


def test_padding_and_other_texts_train_nothing(opened):
    """Rows of one text, alone or beside a longer one that has no weight, give the same step."""
    one, _ = opened("gpt2")
    short, long = read(one, "the dog"), read(one, "the dog saw the cat " * 3)
    train = functools.partial(lens.train_translators, one, num_steps=1, peak_lr=1e-2, batch_size=1)

    alone, beside = train([short]), train([short, long])

    # The first step is Adam's: signs of gradients, wherever these are not 0.
    np.testing.assert_allclose(alone["bias"], beside["bias"], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("bert", r"post-norm"), ("classifier", "classification, and has no output of tokens")],
)
def test_models_without_a_lens_are_refused_with_the_reason(kind, message, opened):
    one, _ = opened(kind)
    with pytest.raises(UserError, match=message):
        lens.read_lens(one, read(one, TEXT))
