"""Every family beside `transformers`, at odd shapes, with random weights."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

from experiments.wiring import pretraining
from lm.interop import exported_folder, hugging_face, weights
from lm.losses import likelihood
from lm.models.families import FAMILIES, param_shapes

V = 61
_BERT = dict(
    vocab_size=V,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=19,
)
_LLAMA = dict(
    vocab_size=V,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
)
_T5 = dict(vocab_size=V, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=3)
_LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def t5(gated, tied):
    config = transformers.T5Config(
        **_T5,
        feed_forward_proj="gated-gelu" if gated else "relu",
        relative_attention_max_distance=12,
        relative_attention_num_buckets=8,
    )
    config.tie_word_embeddings = config.scale_decoder_outputs = tied
    model = transformers.T5ForConditionalGeneration(config)
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    return model


t = transformers
MAKERS = {
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=V, n_positions=19, n_embd=24, n_layer=2, n_head=3)
    ),
    "bert": lambda: t.BertForPreTraining(t.BertConfig(**_BERT)),
    "bert, masked only": lambda: t.BertForMaskedLM(t.BertConfig(**_BERT)),
    "roberta": lambda: t.RobertaForMaskedLM(
        t.RobertaConfig(**_BERT | dict(max_position_embeddings=21, type_vocab_size=1))
    ),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_LLAMA)),
    "llama, tied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_LLAMA, tie_word_embeddings=True)),
    "llama 3.1": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_LLAMA, rope_parameters=_LLAMA3)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_LLAMA, sliding_window=5)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**_LLAMA)),
    "t5": lambda: t5(gated=False, tied=True),
    "t5, gated": lambda: t5(gated=True, tied=True),
    "t5, untied": lambda: t5(gated=False, tied=False),
    "t5 1.1": lambda: t5(gated=True, tied=False),
}


@pytest.fixture(scope="module", params=MAKERS)
def pair(request, tmp_path_factory):
    """A model of transformers, and ours with its weights, read from its folder."""
    torch.manual_seed(0)
    reference = MAKERS[request.param]().eval()
    # So large that an error would show; T5 does not scale its scores, and larger ones would make
    # its softmax a choice that float32's last bits decide.
    noise = 0.15 if "t5" in request.param else 0.3
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("hf")
    reference.save_pretrained(folder)
    if request.param in ("t5, untied", "t5 1.1"):  # As version 4 wrote it, and the Hub has it.
        config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config))
    model, params = load(folder)
    return reference, model, params, folder


def load(folder):
    block = hugging_face.load_model_block(folder)
    settings = {k: v for k, v in block.items() if k != "name"}
    family = FAMILIES[block["name"]]
    settings |= dict(dtype="float32", attention="einsum")
    model = family.module(family.config(**settings))
    shapes = {p: x.shape for p, x in flatten_dict(param_shapes(model)).items()}
    return model, hugging_face.load_params(folder, shapes).params


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(5, V, shape)


def theirs(reference, tokens_BL, mask_BL, decoder_tokens_BL):
    inputs = dict(input_ids=torch.tensor(tokens_BL), attention_mask=torch.tensor(mask_BL))
    if reference.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor(decoder_tokens_BL)
    with torch.no_grad():
        out = reference(**inputs)
    return (out.prediction_logits if "prediction_logits" in out else out.logits).numpy()


def ours(model, params, tokens_BL, segments_BL, decoder_tokens_BL, decoder_segments_BL=None):
    if decoder_segments_BL is None:
        decoder_segments_BL = np.ones_like(decoder_tokens_BL)
    if pretraining.families.family_of(model).architecture == "encoder_decoder":
        inputs = (tokens_BL, segments_BL, decoder_tokens_BL, decoder_segments_BL)
    else:
        start_BL = np.arange(segments_BL.shape[1])[None]
        first = [np.argmax(s[:, None] == s[None], axis=1) for s in segments_BL]
        inputs = (tokens_BL, start_BL - np.stack(first), segments_BL)
    output = jax.jit(model.apply)({"params": params}, *map(jnp.asarray, inputs))
    return np.asarray(output.logits())


@pytest.mark.parametrize("length", [1, 13, 19])
def test_logits_are_those_of_transformers(pair, length):
    reference, model, params, _ = pair
    tokens_BL, written_BL = tokens(2, length), tokens(2, 7, seed=1)
    ones_BL = np.ones_like(tokens_BL)

    expected = theirs(reference, tokens_BL, ones_BL, written_BL)
    found = ours(model, params, tokens_BL, ones_BL, written_BL)

    assert np.abs(expected).max() > 2
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_padding_is_not_seen(pair):
    reference, model, params, _ = pair
    tokens_BL, written_BL = tokens(2, 13), tokens(2, 7, seed=1)
    mask_BL = np.ones_like(tokens_BL)
    mask_BL[1, 8:] = 0
    tokens_BL[1, 8:] = getattr(reference.config, "pad_token_id", None) or 0

    expected = theirs(reference, tokens_BL, mask_BL, written_BL)
    found = ours(model, params, tokens_BL, mask_BL, written_BL)

    if reference.config.is_encoder_decoder:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        np.testing.assert_allclose(found[mask_BL > 0], expected[mask_BL > 0], atol=1e-4)


def test_documents_of_a_row_are_what_they_are_alone(pair):
    reference, model, params, _ = pair
    first, second = tokens(1, 6, seed=2), tokens(1, 9, seed=3)
    written = tokens(1, 4, seed=4), tokens(1, 3, seed=5)
    segments_BL, written_segments_BL = np.array([[1] * 6 + [2] * 9]), np.array([[1] * 4 + [2] * 3])

    alone = [
        theirs(reference, d, np.ones_like(d), w)
        for d, w in zip((first, second), written, strict=True)
    ]
    packed = ours(
        model,
        params,
        np.concatenate([first, second], axis=1),
        segments_BL,
        np.concatenate(written, axis=1),
        written_segments_BL,
    )

    np.testing.assert_allclose(packed, np.concatenate(alone, axis=1), atol=1e-4)


def test_export_after_import_is_equal_to_the_bit_and_loads_without_a_word(pair, tmp_path):
    reference, _, params, folder = pair
    block = hugging_face.load_model_block(folder)
    model_type = hugging_face.model_type_of(block)

    ids = {
        f"{n}_token_id": i
        for n in ("bos", "eos", "pad")
        if (i := getattr(reference.config, f"{n}_token_id", None)) is not None
    }
    family = hugging_face.FAMILIES[model_type]
    exported_folder.save_config(tmp_path, family, block, "float32", ids, (), {})
    exported_folder.save_weights(tmp_path, family, block, params, "float32")

    assert model_type == reference.config.model_type
    before, after = (
        {k: v for f in sorted(d.glob("*.safetensors")) for k, v in load_file(f).items()}
        for d in (folder, tmp_path)
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor.view(np.uint8), after[name].view(np.uint8), name)
    loaded, info = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    tokens_BL, written_BL = tokens(2, 13), tokens(2, 7, seed=1)
    arguments = tokens_BL, np.ones_like(tokens_BL), written_BL
    np.testing.assert_array_equal(theirs(loaded, *arguments), theirs(reference, *arguments))


def test_the_segments_and_the_next_sentence_head_of_bert(tmp_path):
    torch.manual_seed(2)
    reference = MAKERS["bert"]().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path)
    model, params = load(tmp_path)
    tokens_BL, types_BL = tokens(2, 11), np.array([[0] * 4 + [1] * 7, [0] * 9 + [1] * 2])
    positions_BL = np.broadcast_to(np.arange(11), (2, 11))

    with torch.no_grad():
        out = reference(torch.tensor(tokens_BL), token_type_ids=torch.tensor(types_BL))
    apply = functools.partial(model.apply, {"params": params}, tokens_BL, positions_BL, None)
    found = apply(method="next_sentence", types_BL=types_BL)
    logits_BLV = apply(types_BL=types_BL).logits()
    some_BPV = apply(types_BL=types_BL, predict_BP=jnp.array([[3, 0], [10, 2]])).logits()

    np.testing.assert_allclose(found, out.seq_relationship_logits, atol=1e-4)
    np.testing.assert_allclose(logits_BLV, out.prediction_logits, atol=1e-4)
    np.testing.assert_allclose(some_BPV[0], out.prediction_logits[0, [3, 0]], atol=1e-4)
    np.testing.assert_allclose(some_BPV[1], out.prediction_logits[1, [10, 2]], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shards_of_any_dtype_come_back_to_the_bit(pair, dtype, tmp_path, monkeypatch):
    _, _, params, folder = pair
    block = hugging_face.load_model_block(folder)
    model_type = hugging_face.model_type_of(block)
    monkeypatch.setattr(exported_folder, "_SHARD_BYTES", 5_000)

    folders = [tmp_path / "once", tmp_path / "twice"]
    for target in folders:
        target.mkdir()
        family = hugging_face.FAMILIES[model_type]
        exported_folder.save_config(target, family, block, dtype, {}, (), {})
        exported_folder.save_weights(target, family, block, params, dtype)
        assert (target / "model.safetensors.index.json").exists()
        shapes = {path: x.shape for path, x in flatten_dict(params).items()}
        loaded = hugging_face.load_params(target, shapes)
        params = loaded.params
        assert loaded.dtype == dtype

    once, twice = ([f.read_bytes() for f in sorted(d.glob("*.safetensors"))] for d in folders)
    assert len(once) > 2
    assert once == twice
    stored = load_file(next(iter(sorted(folders[0].glob("*.safetensors")))))
    assert {x.dtype.name for x in stored.values()} == {dtype}


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_gradients_are_those_of_transformers(name, tmp_path):
    torch.manual_seed(1)
    reference = MAKERS[name]().eval()
    reference.save_pretrained(tmp_path)
    model, params = load(tmp_path)
    tokens_BL, written_BL, targets = tokens(2, 11), tokens(2, 7, seed=1), tokens(2, 11, seed=2)
    targets_BL = targets[:, :7] if name == "t5" else targets

    inputs = dict(input_ids=torch.tensor(tokens_BL))
    if name == "t5":
        inputs["decoder_input_ids"] = torch.tensor(written_BL)
    out = reference(**inputs)
    logits = out.prediction_logits if name == "bert" else out.logits
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets_BL).flatten(), reduction="sum"
    ).backward()

    def loss(params):
        ones_BL = jnp.ones_like(tokens_BL)
        positions_BL = jnp.broadcast_to(jnp.arange(11), (2, 11))
        arguments = (tokens_BL, positions_BL, ones_BL)
        if name == "t5":
            arguments = (tokens_BL, ones_BL, written_BL, jnp.ones_like(written_BL))
        logits_BLV = model.apply({"params": params}, *arguments).logits()
        weights_BL = jnp.ones(targets_BL.shape)
        return likelihood.cross_entropy(logits_BLV, jnp.asarray(targets_BL), weights_BL)["loss"]

    grads = flatten_dict(jax.jit(jax.grad(loss))(params))
    block = hugging_face.load_model_block(tmp_path)
    family = hugging_face.FAMILIES[block["name"]]
    shapes = {path: x.shape for path, x in grads.items()}
    theirs = dict(reference.named_parameters())
    for key, e, index in weights.keys(family.table(block), shapes):
        ours = [np.asarray(grads[p][index]) for p in e.ours]
        found, expected = weights.join(e, ours), theirs[key].grad
        if expected is None:  # Of the pooler, which no masked token depends on.
            assert not found.any(), key
            continue
        # A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
        scale = max(np.abs(expected.numpy()).max(), 1e-4)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-3 * scale, err_msg=key)


def load_file(path):
    import safetensors.numpy

    return safetensors.numpy.load_file(path)
