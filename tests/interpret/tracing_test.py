"""Patch sweeps beside those of TransformerLens and hooks of torch, and a circuit that was planted.

Dimension key: N layers, L length.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import torch

from lm.errors import UserError
from lm.formats.fields import Record
from lm.interpret import subject, tracing
from lm.interpret.targets import Target, make_target
from tests import interpret_folders

REFERENCE = json.loads(
    pathlib.Path(__file__).with_name("transformer_lens_reference.json").read_text()
)
CLEAN, CORRUPTED = "the cat 1 on the mat", "the cat 2 on the mat"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    reference = interpret_folders.save("gpt2", folder)
    one = subject.open_subject(folder)
    texts = [read(one, text) for text in (CLEAN, CORRUPTED)]
    return one, reference, *texts


def read(one, text):
    (found,) = subject.read(one, Record(text, {"text": text}), is_whole=False)
    return found


def differing(clean, corrupted):
    return np.flatnonzero(clean.sides[""].ids_L != corrupted.sides[""].ids_L)


def test_sweeps_are_those_of_hooks(opened):
    one, reference, clean, corrupted = opened
    target = make_target(one, clean, name="", versus="", place=-1)
    made = tracing.trace(one, clean, corrupted, target, names=["layers.in"], chunk_size=5)

    ids = [torch.tensor(text.sides[""].ids_L[None]).long() for text in (clean, corrupted)]
    blocks, streams = reference.transformer.h, []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: streams.append(args[0])) for block in blocks
    ]
    logit = lambda out: float(out.logits[0, target.place, target.index])
    with torch.no_grad():
        assert logit(reference(input_ids=ids[0])) == pytest.approx(made.clean, abs=1e-5)
        for hook in hooks:
            hook.remove()
        assert logit(reference(input_ids=ids[1])) == pytest.approx(made.corrupted, abs=1e-5)
        expected = np.zeros((len(blocks), ids[0].shape[1]))
        for n, block in enumerate(blocks):
            for j in range(ids[0].shape[1]):

                def put(_, args, n=n, j=j):
                    x = args[0].clone()
                    x[:, j] = streams[n][:, j]
                    return (x, *args[1:])

                hook = block.register_forward_pre_hook(put)
                expected[n, j] = logit(reference(input_ids=ids[1])) - made.corrupted
                hook.remove()

    assert np.abs(expected).max() > 0.02
    np.testing.assert_allclose(made.effects["layers.in"], expected, atol=1e-5)


def test_sweeps_are_those_of_transformer_lens(opened):
    one, _, clean, corrupted = opened
    assert [text.sides[""].ids_L.tolist() for text in (clean, corrupted)] == REFERENCE["ids"]
    target = make_target(one, clean, name="", versus="", place=-1)
    assert target.index == REFERENCE["target"]
    expected = {name: np.array(rows) for name, rows in REFERENCE["effects"].items()}

    made = tracing.trace(one, clean, corrupted, target, names=tuple(expected), chunk_size=16)

    np.testing.assert_allclose([made.clean, made.corrupted], REFERENCE["values"], atol=1e-5)
    for name, effects in expected.items():
        assert np.abs(effects).max() > 0.02
        np.testing.assert_allclose(made.effects[name], effects, atol=1e-5, err_msg=name)
    assert made.by_head == {name for name in expected if expected[name].shape == (2, 2)}


def test_how_many_run_at_once_changes_no_number(opened):
    one, _, clean, corrupted = opened
    target = Target("x", 3, 7, 9)
    some, many = (
        tracing.trace(one, clean, corrupted, target, names=["layers/mlp.out"], chunk_size=size)
        for size in (1, 64)
    )
    np.testing.assert_allclose(
        some.effects["layers/mlp.out"], many.effects["layers/mlp.out"], atol=1e-6
    )


def test_a_planted_circuit_is_found(opened):
    """Only the second layer's attention moves anything, from the word that differs to the end."""
    one, _, clean, corrupted = opened
    params = jax.tree.map(np.array, one.params)
    out = params["layers"]["attention"]["out"]
    out["kernel"][0], out["bias"][:] = 0, 0
    planted = one._replace(params=jax.tree.map(jax.numpy.asarray, params))
    target = make_target(planted, clean, name="", versus="", place=-1)

    made = tracing.trace(planted, clean, corrupted, target, names=tracing.SITES, chunk_size=16)

    change = made.clean - made.corrupted
    where = differing(clean, corrupted)
    last = len(clean.sides[""].ids_L) - 1
    attention_NL = made.effects["layers/attention.out"]
    assert abs(change) > 0.005 and last not in where
    # What attention wrote at the end is all of it, and nowhere else is any.
    assert np.unravel_index(np.abs(attention_NL).argmax(), attention_NL.shape) == (1, last)
    assert attention_NL[1, last] == pytest.approx(change, abs=1e-5)
    rest = attention_NL.copy()
    rest[1, last] = 0
    np.testing.assert_allclose(rest, 0, atol=1e-6)
    heads_NH = made.effects["layers/attention/out.in"]
    np.testing.assert_allclose(heads_NH[0], 0, atol=1e-6)
    assert np.abs(heads_NH[1]).min() > 1e-4
    # The output is what the norm and the table make of the sum over heads: nearly linear here.
    assert heads_NH[1].sum() == pytest.approx(change, rel=0.2)
    # Before the layer it is where the texts differ.
    elsewhere = np.setdiff1d(np.arange(last + 1), where)
    np.testing.assert_allclose(made.effects["layers.in"][:, elsewhere], 0, atol=1e-6)
    assert np.abs(made.effects["layers.in"][1, where]).max() > 1e-3


def test_an_estimate_is_the_effect_of_a_small_change(opened):
    one, _, clean, corrupted = opened
    target = Target("x", 5, 7, None)
    names = ["layers.in", "layers/attention/out.in"]
    made = tracing.trace(one, clean, corrupted, target, names=names, chunk_size=16)
    of_heads = made.effects[names[1]].ravel(), made.estimates[names[1]].ravel()
    assert np.corrcoef(*of_heads)[0, 1] > 0.8
    effects, estimates = made.effects["layers.in"], made.estimates["layers.in"]
    hidden = np.abs(effects) < 1e-7
    np.testing.assert_allclose(estimates[hidden], 0, atol=1e-6)
    assert np.corrcoef(effects[~hidden], estimates[~hidden])[0, 1] > 0.5
    exact = tracing.trace(one, clean, clean, target, names=["layers.in"], chunk_size=16)
    np.testing.assert_array_equal(exact.estimates["layers.in"], 0)


MISTAKES = {
    "unequal lengths": (dict(clean="the cat"), r"the cat has 3 tokens and .* as many tokens"),
    "a site that is not there": (dict(names=["layers.inn"]), r"no site 'layers\.inn'.*layers\.in"),
    "a site without layers": (dict(names=["final_norm.out"]), "no layers and positions"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_patched_is_one_line(name, opened):
    one, _, clean, corrupted = opened
    settings, message = MISTAKES[name]
    settings = {"names": ["layers.in"]} | settings
    clean = read(one, settings.pop("clean")) if "clean" in settings else clean
    trace = functools.partial(tracing.trace, one, clean, corrupted, Target("x", 0, 0, None))
    with pytest.raises(UserError, match=message) as error:
        trace(**settings, chunk_size=2)
    assert "\n" not in str(error.value)
