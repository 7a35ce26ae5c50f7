"""What is seen at the sites of models beside what `transformers` computes, and what patches do.

Dimension key: N layers, B batch, L length, M key length, H heads, K head width, D model width.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn

from lm.errors import UserError
from lm.interop import heads as interop_heads
from lm.interop import hugging_face
from lm.interop.weights import shapes_by_path
from lm.interpret import capture
from lm.interpret.capture import Patch, observe
from lm.models import heads
from lm.models.families import FAMILIES
from tests.interop.parity_test import _BERT, MAKERS, V, tokens

L, WRITTEN = 9, 5
_CLASSIFIER = transformers.BertConfig(**_BERT, num_labels=3)
REFERENCES = {name: MAKERS[name] for name in ("gpt2", "llama", "bert", "t5")} | {
    "classifier": lambda: transformers.BertForSequenceClassification(_CLASSIFIER)
}
# Where each reference has its blocks, and in them what writes to the residual stream; by ours.
PLACES = {
    "gpt2": {"": ("transformer.h", {"attention": "attn.c_proj"}, "attentions")},
    "llama": {"": ("model.layers", {"attention": "self_attn.o_proj"}, "attentions")},
    "bert": {
        "encoder/": ("bert.encoder.layer", {"attention": "attention.output.dense"}, "attentions")
    },
    "classifier": {
        "body/": ("bert.encoder.layer", {"attention": "attention.output.dense"}, "attentions")
    },
    "t5": {
        "encoder/": (
            "encoder.block",
            {"attention": "layer.0.SelfAttention.o"},
            "encoder_attentions",
        ),
        "decoder/": (
            "decoder.block",
            {
                "attention": "layer.0.SelfAttention.o",
                "cross_attention": "layer.1.EncDecAttention.o",
            },
            "decoder_attentions",
        ),
    },
}


class Case(NamedTuple):
    """A model of `transformers`, ours with its weights, and inputs of both."""

    name: str
    reference: Any
    model: nn.Module
    params: Any
    site: str  # The residual stream behind the last stack of blocks that the output depends on.

    def inputs(self, seed=0):
        tokens_BL = jnp.asarray(tokens(2, L, seed=seed))
        if self.name == "t5":
            written_BL = jnp.asarray(tokens(2, WRITTEN, seed=seed + 10))
            return (tokens_BL, jnp.ones_like(tokens_BL), written_BL, jnp.ones_like(written_BL))
        positions_BL = jnp.broadcast_to(jnp.arange(L), (2, L))
        if self.name == "classifier":
            named = dict(tokens_BL=tokens_BL, positions_BL=positions_BL, segment_ids_BL=None)
            return named, jnp.full((2, 1), L)
        return tokens_BL, positions_BL, jnp.ones_like(tokens_BL)

    def theirs(self, seed=0):
        inputs = dict(input_ids=torch.tensor(tokens(2, L, seed=seed)))
        if self.name == "t5":
            inputs["decoder_input_ids"] = torch.tensor(tokens(2, WRITTEN, seed=seed + 10))
        return self.reference(**inputs, output_attentions=True)

    def blocks(self, prefix):
        return self.reference.get_submodule(PLACES[self.name][prefix][0])


def logits_of(name, output):
    return output if name == "classifier" else output.logits()


def saved(name, folder):
    torch.manual_seed(0)
    reference = REFERENCES[name]()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_((0.15 if name == "t5" else 0.3) * torch.randn_like(parameter))
    reference.save_pretrained(folder)
    # The default of transformers keeps no probabilities, and says nothing of it.
    return type(reference).from_pretrained(folder, attn_implementation="eager").eval()


def make_case(name, scanned, folder):
    reference, block = saved(name, folder), hugging_face.load_model_block(folder)
    family = FAMILIES[block["name"]]
    settings = {k: v for k, v in block.items() if k != "name"}
    # With the kernel that a run would take, which keeps no probabilities of itself.
    settings |= dict(
        dtype="float32", attention="blocked" if name in ("gpt2", "llama") else "einsum"
    )
    settings |= dict(scan_layers=scanned, remat="full" if scanned else "none")
    config = family.config(**settings)
    more = {}
    if name == "classifier":
        labels = tuple(map(str, range(3)))
        model = heads.SequenceHead(family.body(config), heads.FirstToken(jnp.float32), 3)
        more = dict(family=interop_heads.with_head(block, "classification", labels))
    else:
        model = family.module(config)
    case = Case(name, reference, capture.observable(model)[0], None, "")
    shapes = jax.eval_shape(lambda: case.model.init(jax.random.key(0), *case.inputs())["params"])
    params = hugging_face.load_params(folder, shapes_by_path(shapes), **more).params
    return case._replace(
        params=jax.tree.map(jnp.asarray, params), site=f"{list(PLACES[name])[-1]}layers.out"
    )


CASES = [(name, scanned) for name in REFERENCES for scanned in (False, True)]


@pytest.fixture(
    scope="module", params=CASES, ids=lambda c: f"{c[0]}-{'scanned' if c[1] else 'unrolled'}"
)
def case(request, tmp_path_factory):
    return make_case(*request.param, tmp_path_factory.mktemp(request.param[0]))


@pytest.fixture(scope="module")
def look(case):
    """One program: (inputs, patch of the residual stream) -> logits, and all that is seen."""
    kept = [name for name in capture.sites(case.model, case.params, *case.inputs())]

    @jax.jit
    def run(inputs, patch):
        patches = {case.site: patch}
        output, seen = observe(case.model, case.params, *inputs, keep=kept, patches=patches)
        return logits_of(case.name, output), seen

    return run


def nothing(case):
    shape = capture.sites(case.model, case.params, *case.inputs())[case.site]
    return Patch(jnp.zeros(shape.shape, bool), jnp.zeros(shape.shape), jnp.zeros(shape.shape))


def keep_output(to, _, args, out):
    to.append(out[0] if isinstance(out, tuple) else out)


def keep_input(to, _, args):
    to.append(args[0])


def test_sites_hold_what_transformers_computes(case, look):
    written, streams, hooks = {}, {}, []
    for prefix, (_, outs, _) in PLACES[case.name].items():
        for block in case.blocks(prefix):
            of_block = functools.partial(keep_output, streams.setdefault(prefix, []))
            hooks.append(block.register_forward_hook(of_block))
            for ours, path in outs.items():
                to = written.setdefault(prefix + ours, [])
                hook = functools.partial(keep_input, to)
                hooks.append(block.get_submodule(path).register_forward_pre_hook(hook))
    with torch.no_grad():
        out = case.theirs()
    for hook in hooks:
        hook.remove()

    logits, seen = look(case.inputs(), nothing(case))

    close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=0)
    stacked = lambda arrays: torch.stack(list(arrays)).detach().numpy()
    close(logits if case.name != "classifier" else logits[:, 0], _logits_of_theirs(out))
    for prefix, (_, outs, attentions) in PLACES[case.name].items():
        assert np.abs(seen[f"{prefix}layers.out"]).max() > 1
        close(seen[f"{prefix}layers.out"], stacked(streams[prefix]))
        close(seen[f"{prefix}layers.in"][1:], stacked(streams[prefix])[:-1])
        probs = {"attention": attentions, "cross_attention": "cross_attentions"}
        for ours in outs:
            found_NBLHK = seen[f"{prefix}layers/{ours}/out.in"]
            expected = stacked(written[prefix + ours])
            close(found_NBLHK.reshape(expected.shape), expected)
            close(seen[f"{prefix}layers/{ours}/probs.out"], stacked(out[probs[ours]]))


def _logits_of_theirs(out):
    return (out.prediction_logits if "prediction_logits" in out else out.logits).detach().numpy()


def test_looking_changes_no_output(case, look):
    plain = jax.jit(lambda inputs: case.model.apply({"params": case.params}, *inputs))
    expected = logits_of(case.name, plain(case.inputs()))
    logits, _ = look(case.inputs(), nothing(case))

    np.testing.assert_allclose(logits, expected, atol=1e-6 * np.abs(expected).max())


def test_a_patch_of_nothing_changes_no_bit(case, look):
    none = nothing(case)
    logits, seen = look(case.inputs(), none)
    here = seen[case.site]
    noise = jax.random.normal(jax.random.key(0), here.shape)

    unmasked, _ = look(case.inputs(), Patch(none.mask, noise, none.delta))
    same, _ = look(case.inputs(), Patch(~none.mask, here, none.delta))
    other, _ = look(case.inputs(), Patch(~none.mask, noise, none.delta))

    np.testing.assert_array_equal(unmasked, logits)
    np.testing.assert_array_equal(same, logits)
    assert np.abs(other - logits).max() > 0.1


def test_clean_activations_give_the_clean_output_of_corrupted_inputs(case, look):
    none = nothing(case)
    clean, seen = look(case.inputs(), none)
    corrupted, _ = look(case.inputs(seed=3), none)

    patched, _ = look(case.inputs(seed=3), Patch(~none.mask, seen[case.site], none.delta))

    np.testing.assert_allclose(patched, clean, atol=1e-6 * np.abs(clean).max())
    assert np.abs(corrupted - clean).max() > 0.1


def test_gradients_by_a_delta_of_zeros_are_those_by_activations(case):
    weights = np.random.default_rng(5).standard_normal(_logits_of_theirs(case.theirs()).shape)
    weights = weights.astype(np.float32)
    prefix, streams = case.site.removesuffix("layers.out"), []

    def retain(_, args, out):
        out = out[0] if isinstance(out, tuple) else out
        out.retain_grad()
        streams.append(out)

    hooks = [block.register_forward_hook(retain) for block in case.blocks(prefix)]
    out = case.theirs()
    logits = out.prediction_logits if "prediction_logits" in out else out.logits
    (logits * torch.tensor(weights)).sum().backward()
    for hook in hooks:
        hook.remove()
    expected = np.stack([stream.grad.numpy() for stream in streams])

    def loss(delta):
        patches = {case.site: Patch(delta=delta)}
        output, _ = observe(case.model, case.params, *case.inputs(), patches=patches)
        return jnp.sum(logits_of(case.name, output).reshape(weights.shape) * weights)

    found = jax.jit(jax.grad(loss))(jnp.zeros(expected.shape))

    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def scanned_gpt2(tmp_path_factory):
    return make_case("gpt2", True, tmp_path_factory.mktemp("gpt2"))


def test_patches_under_vmap_are_those_one_by_one(scanned_gpt2):
    case, site = scanned_gpt2, "layers/mlp.out"
    shape = capture.sites(case.model, case.params, *case.inputs())[site].shape
    # Ablations of the MLP of each layer at each position.
    N, B, at_L = shape[0], shape[1], jnp.arange(shape[2])
    where = jnp.stack([jnp.repeat(jnp.arange(N), L), jnp.tile(at_L, N)], axis=1)

    def run(layer, position):
        mask = (jnp.arange(N) == layer)[:, None, None, None]
        mask = mask & (at_L == position)[None, None, :, None]
        output, _ = observe(
            case.model, case.params, *case.inputs(), patches={site: Patch(mask=mask)}
        )
        return output.logits()

    together = jax.jit(jax.vmap(run))(where[:, 0], where[:, 1])
    one = jax.jit(run)
    for i in (0, 5, len(where) - 1):
        np.testing.assert_allclose(together[i], one(*where[i]), atol=1e-5)
    assert together.shape == (N * L, B, L, V)
    # The position that is ablated and those behind it differ, and no other.
    changed = np.abs(together - together[L - 1][None]).max(axis=(1, 3))[:L] > 1e-4
    np.testing.assert_array_equal(changed[:-1, :-1], np.triu(np.ones((L - 1, L - 1), bool)))


def test_a_site_that_is_not_there_is_named_with_the_nearest(scanned_gpt2):
    case = scanned_gpt2
    look = functools.partial(observe, case.model, case.params, *case.inputs())
    with pytest.raises(UserError, match=r"no site 'layers/atention\.out'.*layers/attention\.out"):
        look(keep=["layers/atention.out"])
    with pytest.raises(UserError, match=r"no site 'layer\.in'.*layers\.in"):
        look(patches={"layer.in": Patch()})


@pytest.mark.parametrize("shape", [(2, 2, L, 5), (1, 2, 2, L, 24), (3, L, 24)])
def test_a_patch_that_does_not_fit_is_refused(scanned_gpt2, shape):
    case = scanned_gpt2
    one = [x[:1] for x in case.inputs()]
    patches = {"layers.out": Patch(value=jnp.zeros(shape))}
    with pytest.raises(
        UserError, match=rf"shape \({str(shape)[1:-1]}\) does not fit layers\.out.*24"
    ):
        observe(case.model, case.params, *one, patches=patches)


def test_a_kernel_that_keeps_no_probabilities_gives_way_and_says_so(scanned_gpt2):
    config = scanned_gpt2.model.config
    assert capture.observable(scanned_gpt2.model) == (scanned_gpt2.model, "")
    fused = type(scanned_gpt2.model)(config.__class__(**vars(config) | {"attention": "blocked"}))
    model, line = capture.observable(fused)
    assert model.config.attention == "einsum" and "blocked" in line
