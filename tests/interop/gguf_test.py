"""Decoders as GGUF: `transformers` computes of the file what ours does, and reads the same ids."""

import functools
import itertools
import json
import sys

import gguf
import jax
import numpy as np
import pytest
import tokenizers as hf
import torch
import transformers as t
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

import lm
from configs import convert as convert_config
from configs import families
from experiments import convert
from lm.errors import UserError
from lm.interop import gguf_files, gguf_tokenizer, tokenizer_files
from lm.models.factory import make_model
from lm.models.families import init_params, param_shapes
from lm.tokenizers import sentencepiece_files, sentencepiece_proto, tokenizers
from tests.exported_pipelines_test import write_run
from tests.tiny_tokenizers import CORPUS, TEXTS, tokenizer_of

SHAPE = dict(max_len=48, num_layers=2, num_heads=2, head_dim=32, model_dim=64, mlp_dim=96)
# By model, what it is made of, and how far off logits of F32, F16 and Q8_0 may be.
MODELS = {
    "gpt2": dict(name="gpt2"),
    "llama": dict(name="llama"),
    "wide heads, own output": dict(name="llama", model_dim=32, tied_output=False),
    "mistral": dict(name="llama", window=24),
    "llama 3.1": dict(
        name="llama", rope_factor=8.0, rope_low_freq=1.0, rope_high_freq=4.0, rope_original_len=16
    ),
    "qwen2": dict(name="llama", qkv_bias=True),
}
BOUNDS = {"F32": 1e-5, "F16": 1e-2, "Q8_0": 0.2}
NEEDS_CONFIG = ("gpt2", "llama 3.1")  # Of which transformers reads less than the file says.


def random_run(name, folder):
    """A run with random parameters, with its model and these."""
    changes = MODELS[name]
    config = families.get_config(f"family={changes['name']},tokenizer=bytes")
    known = {k: v for k, v in (SHAPE | changes).items() if k in config.model}
    config.model.update(known | {"vocab_size": 270})
    model = make_model(config.model, causal=True)
    rng = np.random.default_rng(0)
    noise = lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32)
    params = jax.tree.map(noise, init_params(model, jax.random.key(0)))
    return write_run(folder / "run", config, params, {"num_tokens": 0}), model, params


@pytest.fixture(scope="module", params=MODELS)
def made(request, tmp_path_factory):
    """A run of each model, and its logits of a text."""
    run, model, params = random_run(request.param, tmp_path_factory.mktemp("made"))
    tokens_BL = np.random.default_rng(1).integers(3, 259, (2, 24))
    positions_BL = np.broadcast_to(np.arange(24), (2, 24))
    apply = jax.jit(lambda params: model.apply({"params": params}, tokens_BL, positions_BL, None))
    return request.param, run, tokens_BL, np.asarray(apply(params).logits())


def exported(run, target, **settings):
    config = convert_config.get_config()
    config.update(source=str(run), target=str(target), format="gguf", **settings)
    assert convert.run(config, None) == 0
    return target


@pytest.mark.parametrize("kind", gguf_files.TYPES)
def test_transformers_computes_the_same(made, kind, tmp_path):
    name, run, tokens_BL, expected = made
    folder = exported(run, tmp_path / "gguf", gguf_type=kind)
    file = {"gguf_file": f"model-{kind}.gguf", "dtype": torch.float32}

    configs = [t.AutoConfig.from_pretrained(folder), *[None] * (name not in NEEDS_CONFIG)]
    for config in configs:
        model, info = t.AutoModelForCausalLM.from_pretrained(
            folder, **file, output_loading_info=True, **({"config": config} if config else {})
        )
        assert not any(info.values()), info
        with torch.no_grad():
            found = model.eval()(torch.tensor(tokens_BL)).logits.numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < BOUNDS[kind]
    assert np.std(expected) > 0.3
    tensors = {x.name: x for x in gguf.GGUFReader(folder / file["gguf_file"]).tensors}
    assert tensors["token_embd.weight"].tensor_type.name == kind
    assert ("output.weight" in tensors) == (name == "wide heads, own output")
    assert ("rope_freqs.weight" in tensors) == (name == "llama 3.1")


@pytest.mark.parametrize(("name", "length"), [("mistral", 24), ("llama", 48)])
def test_a_window_becomes_positions_within_which_it_changes_nothing(name, length, tmp_path, capsys):
    run, *_ = random_run(name, tmp_path)
    folder, again = (exported(run, tmp_path / target) / "model-F16.gguf" for target in "ab")

    config, said = t.AutoConfig.from_pretrained(folder.parent), capsys.readouterr().out
    field = gguf.GGUFReader(folder).fields["llama.context_length"]
    assert config.max_position_embeddings == field.contents() == length
    assert ("know no window" in said) == (name == "mistral")
    assert folder.read_bytes() == again.read_bytes()


def read_back(tokenizer, path, **changes):
    """What `transformers` makes of a file that holds a tokenizer alone."""
    settings = dict(num_rows=tokenizer.vocab_size + 3, start=(), stop_ids=(), templates={})
    found = gguf_tokenizer.metadata(tokenizer, **settings | changes)
    writer = gguf_files.make_writer(gguf, path, "llama")
    gguf_files.add_metadata(gguf, writer, found.metadata)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    architecture, parts, config = get_gguf_tokenizer(str(path))
    return found, convert_gguf_tokenizer(architecture, parts)[0], config


@functools.cache
def byte_level(split, ignore_merges=False):
    """A BPE over bytes, trained; `split` is a regex or "ByteLevel"."""
    library = hf.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == "ByteLevel")]
    if split != "ByteLevel":
        steps.insert(0, pre_tokenizers.Split(hf.Regex(split), "isolated"))
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        [*CORPUS, "I'LL  don't\r\n  x 12345 1234 I'LL x"] * 4,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return library


def of(library):
    return tokenizers.HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})


def with_space(model):
    """The SentencePiece model, with a space before each text."""
    proto = sentencepiece_proto.ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = True
    return tokenizers.SentencePieceTokenizer(proto.SerializeToString())


READ_ALIKE = {
    "bytes": (lambda: tokenizer_of("bytes"), "gpt2", "gpt-2"),
    "bytes, imported": (lambda: of(tokenizer_files._from_bytes(["<s>"])), "gpt2", "gpt-2"),
    "gpt2": (lambda: of(byte_level("ByteLevel")), "gpt2", "gpt-2"),
    "llama 3": (lambda: of(byte_level(gguf_tokenizer.LLAMA3, True)), "gpt2", "llama-bpe"),
    "by merges": (lambda: of(byte_level(gguf_tokenizer.LLAMA3)), "gpt2", "smaug-bpe"),
    "qwen2": (lambda: of(byte_level(gguf_tokenizer.QWEN2)), "gpt2", "qwen2"),
    # LlamaTokenizer puts a space before each text that has none.
    "sentencepiece": (
        lambda: with_space(tokenizer_of("sentencepiece").model),
        "llama",
        "default",
    ),
    "llama": (lambda: tokenizer_of("llama"), "llama", "default"),
}
MORE = ["I'LL 12345 don't it'S\r\n\n  x", "def f(x):\n\treturn  x + 1\n", "a  b   c    d"]


@pytest.mark.parametrize("name", READ_ALIKE)
def test_transformers_reads_the_same_ids(name, tmp_path):
    make, kind, split = READ_ALIKE[name]
    tokenizer = make()
    found, library, _ = read_back(tokenizer, tmp_path / "x.gguf")

    assert found.metadata["tokenizer.ggml.model"] == kind
    assert found.metadata["tokenizer.ggml.pre"] == split
    texts = [x for x in [*TEXTS, *MORE] if "\u2581" not in x and not x.startswith(" ")]
    for text in texts if kind == "llama" else [*TEXTS, *MORE]:
        ids = library.encode(text, add_special_tokens=False).ids
        assert ids == tokenizer.encode_batch([text])[0].tolist(), text


def scored(tokenizer, text):
    """What SentencePiece and llama.cpp do: the pair that makes the best piece is joined first."""
    data = gguf_tokenizer.metadata(
        tokenizer, num_rows=0, start=(), stop_ids=(), templates={}
    ).metadata
    tokens, scores = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.scores"]
    ids = {token: i for i, token in enumerate(tokens)}
    prefix = " " if data["tokenizer.ggml.add_space_prefix"] and text else ""
    parts = [*(prefix + text).replace(" ", "\u2581")]
    while pairs := [(scores[ids[a + b]], -i) for i, (a, b) in pairs_of(parts) if a + b in ids]:
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    spelled = lambda part: [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return [i for part in parts for i in ([ids[part]] if part in ids else spelled(part))]


def pairs_of(parts):
    return enumerate(itertools.pairwise(parts))


@pytest.mark.parametrize("name", ["sentencepiece", "sentencepiece llama", "llama", "with merges"])
def test_scores_join_what_the_tokenizer_joins(name):
    tokenizer = tokenizer_of("sentencepiece" if name == "with merges" else name)
    if name == "with merges":  # As a folder of transformers has it.
        proto = sentencepiece_proto.ModelProto.FromString(tokenizer.model)
        tokenizer = of(sentencepiece_files.build(proto, {}, legacy=True))

    for text in [x for x in [*TEXTS, *MORE] if "\u2581" not in x]:
        assert scored(tokenizer, text) == tokenizer.encode_batch([text])[0].tolist(), text


def test_what_else_a_file_says_of_a_tokenizer(tmp_path):
    tokenizer = tokenizer_of("bytes")
    found, _, config = read_back(
        tokenizer,
        tmp_path / "x.gguf",
        start=(1,),
        stop_ids=(2, 100, 101, 102),
        templates={"default": "{{ messages }}", "tool_use": "{{ tools }}"},
    )

    said = {k.removeprefix("tokenizer."): v for k, v in found.metadata.items()}
    ids = {k: v for k, v in said.items() if k.endswith("_id")}
    assert ids == {
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
        "ggml.padding_token_id": 0,
        "ggml.eot_token_id": 100,
        "ggml.eom_token_id": 101,
    }
    assert found.notes == ["a GGUF has no place for all tokens that end a text: not for [102]"]
    assert said["ggml.add_bos_token"] and not said["ggml.add_eos_token"]
    assert said["chat_template"] == config["chat_template"] == "{{ messages }}"
    assert said["chat_templates"] == ["tool_use"]
    assert said["chat_template.tool_use"] == "{{ tools }}"
    assert said["ggml.tokens"][259:] == ["[PAD259]", "[PAD260]", "[PAD261]"]
    assert said["ggml.token_type"][258:] == [1, 5, 5, 5]


def changed(path, value):
    """A tokenizer.json with another value at a path."""
    parts = json.loads(byte_level("ByteLevel").to_str())
    *above, last = path
    functools.reduce(lambda tree, key: tree[key], above, parts)[last] = value
    return tokenizers.HuggingFaceTokenizer({"tokenizer.json": json.dumps(parts).encode()})


def unordered():
    parts = json.loads(tokenizer_of("llama").tokenizer_json)
    parts["model"]["merges"] = parts["model"]["merges"][:-1]
    return tokenizers.HuggingFaceTokenizer({"tokenizer.json": json.dumps(parts).encode()})


REFUSED = {
    "a unigram": (lambda: tokenizer_of("sentencepiece nfkc"), "is no BPE"),
    "a Unigram": (lambda: tokenizer_of("t5"), "is a Unigram and no BPE"),
    "a WordPiece": (lambda: tokenizer_of("bert"), "is a WordPiece and no BPE"),
    "a space first": (lambda: tokenizer_of("roberta"), "splits words by"),
    "another regex": (lambda: of(byte_level(r"\w+|\W+")), r"splits words by \\w"),
    "affixes": (lambda: changed(["model", "end_of_word_suffix"], "</w>"), "affixes"),
    "lower case": (lambda: changed(["normalizer"], {"type": "Lowercase"}), "splits words by"),
    "a merge too few": (unordered, "without the merge"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_without_an_equal_is_refused(name):
    make, message = REFUSED[name]
    settings = dict(num_rows=0, start=(), stop_ids=(), templates={})

    with pytest.raises(UserError, match=message) as caught:
        gguf_tokenizer.metadata(make(), **settings)
    assert "--config.format=transformers" in str(caught.value)


def test_what_llama_cpp_does_not_do_is_said():
    library = hf.Tokenizer.from_str(byte_level("ByteLevel").to_str())
    library.normalizer = normalizers.NFC()
    library.add_special_tokens([hf.AddedToken("<mask>", special=True, lstrip=True)])
    settings = dict(num_rows=0, start=(), stop_ids=(), templates={})

    notes = gguf_tokenizer.metadata(of(library), **settings).notes

    assert len(notes) == 2
    assert "NFC" in notes[1] and "<mask>" in notes[0]


def test_a_model_that_no_gguf_holds_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    bert = families.get_config("family=bert,tokenizer=bytes")
    model = make_model(bert.model, causal=False)
    zeros = lambda x: np.zeros(x.shape, np.float32)
    params = jax.tree.map(zeros, param_shapes(model))
    encoder = write_run(tmp_path / "bert", bert, params, {"num_tokens": 0})
    (tmp_path / "llama").mkdir()
    run, *_ = random_run("llama", tmp_path / "llama")

    for source, settings, message in [
        (encoder, {}, "decoders that write"),
        (run, {"gguf_type": "Q4"}, "gguf_type='Q4'"),
        (run, {"vocab_size": 300}, "vocab_size=300 means nothing to format=gguf"),
    ]:
        with pytest.raises(UserError, match=message):
            exported(source, tmp_path / "out", **settings)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="pip install gguf"):
        patch.setitem(sys.modules, "gguf", None)
        exported(run, tmp_path / "out")
    loaded = lm.load(run)
    embedding = np.array(loaded.params["token_embedding"])
    embedding[3, 4] = 1e6
    params = loaded.params | {"token_embedding": embedding}
    with pytest.raises(UserError, match=r"token_embd\.weight holds 1e"):
        lm.export(loaded._replace(params=params), tmp_path / "out", gguf_type="F16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "llama", "out"]
