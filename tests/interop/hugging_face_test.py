import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tokenizers as hf
import torch
import transformers

from configs import convert as convert_config
from configs import quickstart
from experiments import convert, pretrain
from experiments.wiring import init_from
from lm.errors import UserError
from lm.interop import hugging_face, tokenizer_files
from lm.loading import language_model
from lm.tokenizers import tokenizers
from lm.tokenizers.tokenizers import ByteTokenizer
from lm.tokenizers.training import train_sentencepiece

VOCAB, POSITIONS = 301, 24


@pytest.fixture(scope="session")
def reference():
    """A GPT-2 of transformers at odd sizes, its weights large enough that an error would show."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=POSITIONS,
        n_embd=24,
        n_layer=3,
        n_head=3,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def folder(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    reference.save_pretrained(folder)
    tokenizer = hf.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        ["def f(x):\n    return x", "中文"], vocab_size=280, special_tokens=["<|endoftext|>"]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    ).save_pretrained(folder)
    return folder


def run_convert(source, target, **options):
    config = convert_config.get_config()
    config.update(source=str(source), target=str(target), **options)
    convert.run(config, None)
    return target


@pytest.fixture(scope="session")
def imported(folder, tmp_path_factory):
    return run_convert(folder, tmp_path_factory.mktemp("run") / "imported")


@pytest.mark.parametrize("length", [1, 13, POSITIONS])
def test_logits_agree_with_transformers(reference, imported, length):
    run = language_model.load(imported)
    tokens_BL = np.random.default_rng(length).integers(0, VOCAB, (2, length))
    positions_BL = jnp.broadcast_to(jnp.arange(length), (2, length))

    ours = jax.jit(run.model.apply)({"params": run.params}, tokens_BL, positions_BL, None).logits()

    with torch.no_grad():
        theirs = reference(torch.tensor(tokens_BL)).logits.numpy()
    assert np.abs(theirs).max() > 5
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def tensors(folder):
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.numpy.load_file(file).items()
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_export_after_import_is_equal_to_the_bit(reference, folder, tmp_path, dtype):
    source = tmp_path / "source"
    source.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (source / file.name).write_bytes(file.read_bytes())
    original = {
        name: np.asarray(tensor).astype(getattr(ml_dtypes, dtype, dtype))
        for name, tensor in tensors(folder).items()
    }
    safetensors.numpy.save_file(original, source / "model.safetensors")

    exported = tensors(run_convert(run_convert(source, tmp_path / "run"), tmp_path / "back"))

    assert exported.keys() == original.keys()
    for name, tensor in original.items():
        assert exported[name].dtype == tensor.dtype
        np.testing.assert_array_equal(
            exported[name].view(np.uint8), tensor.view(np.uint8), err_msg=name
        )


def test_transformers_loads_an_export_without_a_word(reference, imported, tmp_path, caplog):
    target = run_convert(imported, tmp_path / "hf")

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        target, output_loading_info=True
    )

    assert not any(info.values()), info
    tokens_BL = torch.arange(10)[None]
    with torch.no_grad():
        np.testing.assert_array_equal(model(tokens_BL).logits, reference(tokens_BL).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    run = language_model.load(imported)
    assert tokenizer("def 中").input_ids == run.tokenizer.encode_batch(["def 中"])[0].tolist()
    assert tokenizer.eos_token_id == run.tokenizer.eos_id


def test_sharded_files_are_read(folder, reference, imported, tmp_path):
    sharded = tmp_path / "sharded"
    reference.save_pretrained(sharded, max_shard_size="20KB")
    (sharded / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert len(list(sharded.glob("*.safetensors"))) > 1

    params = language_model.load(run_convert(sharded, tmp_path / "run")).params

    jax.tree.map(np.testing.assert_array_equal, params, language_model.load(imported).params)


def edited(folder, tmp_path, *, config=None, weights=None):
    """A copy of the folder with another config.json or other weights."""
    copy = tmp_path / "edited"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    if config:
        values = json.loads((folder / "config.json").read_text()) | config
        (copy / "config.json").write_text(json.dumps(values))
    if weights:
        safetensors.numpy.save_file(weights(tensors(folder)), copy / "model.safetensors")
    return copy


def without(tensors, *names):
    return {k: v for k, v in tensors.items() if k not in names}


BAD = {
    "a missing key": (
        dict(weights=lambda t: without(t, "transformer.h.1.mlp.c_fc.bias")),
        "missing keys: transformer.h.1.mlp.c_fc.bias",
    ),
    "an unknown key": (
        dict(weights=lambda t: t | {"score.weight": t["transformer.wte.weight"]}),
        "unknown keys: score.weight",
    ),
    "a wrong shape": (
        dict(weights=lambda t: t | {"transformer.ln_f.bias": np.zeros(5, np.float32)}),
        r"ln_f.bias has shape \(5,\)",
    ),
    "an untied output": (
        dict(weights=lambda t: t | {"lm_head.weight": t["transformer.wte.weight"] + 1}),
        "lm_head.weight differs from transformer.wte.weight",
    ),
    "two names of one parameter": (
        dict(weights=lambda t: t | {"wte.weight": t["transformer.wte.weight"]}),
        r"transformer\.wte\.weight and wte\.weight are two names of one parameter",
    ),
    "an unknown family": (
        dict(config={"model_type": "mamba"}),
        "known are bert, gpt2, llama, mistral, qwen2, roberta, t5",
    ),
    "another activation": (dict(config={"activation_function": "relu"}), "activation_function"),
    "a small vocabulary": (
        dict(
            config={"vocab_size": 5},
            weights=lambda t: t | {"transformer.wte.weight": t["transformer.wte.weight"][:5]},
        ),
        "tokenizer has",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_cannot_be_read_right_is_refused(folder, tmp_path, name):
    changes, message = BAD[name]

    with pytest.raises(UserError, match=message):
        run_convert(edited(folder, tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_old_files_with_mask_buffers_and_without_the_prefix_are_read(folder, imported, tmp_path):
    def old(t):
        renamed = {k.removeprefix("transformer."): v for k, v in t.items()}
        mask = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
        return renamed | mask | {"lm_head.weight": renamed["wte.weight"].copy()}

    run = run_convert(edited(folder, tmp_path, weights=old), tmp_path / "run")

    jax.tree.map(
        np.testing.assert_array_equal,
        language_model.load(run).params,
        language_model.load(imported).params,
    )


def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder, tmp_path):
    copy = edited(folder, tmp_path)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")

    with pytest.raises(UserError, match="save_pretrained"):
        run_convert(copy, tmp_path / "run")


def test_a_folder_can_be_trained_on_as_it_is(folder, imported, tmp_path):
    config = quickstart.get_config(f"debug,tokenizer={folder}/tokenizer.json")
    config.update_from_flattened_dict(
        {
            "init_from": str(folder),
            "data.source": "text",
            "data.train": "lm/data/*.py",
            "data.validation": "lm/*.py",
            "data.seq_len": POSITIONS,
            "train.num_steps": 1,
            "optimizer.peak_lr": 0.0,
            "optimizer.warmup_steps": 0,
            "eval.sample_tokens": 0,
        }
    )
    config.model.update(language_model.load(imported).config["model"])

    pretrain.run(config, tmp_path / "run")

    jax.tree.map(
        np.testing.assert_array_equal,
        language_model.load(tmp_path / "run").params,
        language_model.load(imported).params,
    )


def test_more_tokens_are_the_mean_of_those_there_are(folder, imported, tmp_path):
    run_convert(folder, tmp_path / "run", vocab_size=VOCAB + 5)

    old, new = language_model.load(imported).params, language_model.load(tmp_path / "run").params
    before, after = old["token_embedding"], new["token_embedding"]
    assert after.shape == (VOCAB + 5, 24)
    np.testing.assert_array_equal(after[:VOCAB], before)
    expected = np.broadcast_to(np.mean(before, axis=0), (5, 24))
    np.testing.assert_allclose(after[VOCAB:], expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(UserError, match="vocab_size=300 is less"):
        run_convert(folder, tmp_path / "less", vocab_size=300)


def test_the_vocabulary_of_an_old_bert_is_read(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "a", "中"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    theirs = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))

    tokenizer = tokenizers.load_file(tmp_path)

    text = "Playing a 中中 [MASK]"
    (ids,) = tokenizer.encode_batch([text])
    assert (
        ids.tolist()[:5] == theirs(text, add_special_tokens=False).input_ids[:5] == [5, 6, 7, 8, 8]
    )
    assert 4 not in ids  # Text that spells a special token stays text.
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 2, 3, 4)


MODULES = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]


def test_a_bare_encoder_is_read_and_a_head_is_left_out_only_when_asked(tmp_path, folder, capsys):
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=24,
    )
    bare = transformers.BertModel(config)
    classifier = transformers.BertForSequenceClassification(config)
    for model, name in ((bare, "bare"), (classifier, "classifier")):
        model.save_pretrained(tmp_path / name)
        tokenizer = (folder / "tokenizer.json").read_bytes()
        (tmp_path / name / "tokenizer.json").write_bytes(tokenizer)

    with pytest.raises(UserError, match=r"unknown keys: classifier\.bias.*allow_unknown=True"):
        run_convert(tmp_path / "classifier", tmp_path / "run", allow_missing=True)
    with pytest.raises(UserError, match=r"missing keys: cls\..*allow_missing=True"):
        run_convert(tmp_path / "classifier", tmp_path / "run", allow_unknown=True)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(MODULES)
    ]
    (tmp_path / "bare" / "modules.json").write_text(json.dumps(modules))
    run_convert(tmp_path / "bare", tmp_path / "run")
    told = capsys.readouterr().out
    both = dict(allow_missing=True, allow_unknown=True)
    run_convert(tmp_path / "classifier", tmp_path / "other", **both)

    assert "missing, and drawn at random: transform/kernel" in told
    beside = [line for line in told.splitlines() if "modules.json" in line]
    assert beside == [
        "unknown, and left out: modules.json: 1_Pooling (Pooling)",
        "unknown, and left out: modules.json: 2_Dense (Dense)",
    ]
    assert "sample from it" not in told
    assert "configs/classify.py" in told
    assert "unknown, and left out: classifier.weight" in capsys.readouterr().out
    params = language_model.load(tmp_path / "run").params
    assert np.std(params["transform"]["kernel"]) == pytest.approx(0.02, rel=0.2)
    np.testing.assert_array_equal(
        params["encoder"]["token_embedding"], bare.embeddings.word_embeddings.weight.detach()
    )
    for damaged in ("[", "3", "[1]", '[{"path": 1}]', "[" * 100_000):
        (tmp_path / "bare" / "modules.json").write_text(damaged)
        assert hugging_face.modules_beside(tmp_path / "bare") == ["modules.json, which is damaged"]
    loaded = transformers.BertForPreTraining.from_pretrained(
        run_convert(tmp_path / "other", tmp_path / "back")
    )
    np.testing.assert_array_equal(
        loaded.bert.pooler.dense.weight.detach(), classifier.bert.pooler.dense.weight.detach()
    )


def test_a_folder_without_its_tokenizer_is_refused_with_what_to_do(folder, tmp_path):
    (edited(folder, tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        init_from.check(str(tmp_path / "edited"), None, {}, ByteTokenizer())


def test_a_broken_file_beside_a_tokenizer_is_named(folder, tmp_path):
    copy = edited(folder, tmp_path)
    (copy / "tokenizer_config.json").write_text("{")

    with pytest.raises(UserError, match=r"tokenizer_config\.json is no JSON"):
        run_convert(copy, tmp_path / "run")


@pytest.mark.parametrize("size", [0, 20, 9000])
def test_weights_that_were_cut_off_are_one_line(folder, tmp_path, size):
    copy = edited(folder, tmp_path)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:size])

    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        run_convert(copy, tmp_path / "run")


def test_a_number_that_is_none_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"config\.json: n_layer='two' must be a whole number"):
        run_convert(edited(folder, tmp_path, config={"n_layer": "two"}), tmp_path / "run")


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "roberta", "t5"])
def test_a_config_that_lacks_a_key_is_one_line(model_type, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": model_type}))

    with pytest.raises(UserError, match=r"config\.json lacks '\w+'"):
        run_convert(tmp_path / "hf", tmp_path / "run")


def test_a_target_that_cannot_be_made_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(UserError, match=r"target=.*file/run cannot be made"):
        run_convert(folder, tmp_path / "file" / "run")


def test_a_target_that_exists_is_left_alone(folder, tmp_path):
    (tmp_path / "precious").write_text("mine")

    with pytest.raises(UserError, match="exists already"):
        run_convert(folder, tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


TEXTS = [
    "def  f(x):\n\treturn x  # 🙂\n\n\n",
    "中文测试，你好 世界",
    " leading and trailing  ",
    "e\u0301 \x00 \u200d",
    "",
]


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
def test_exported_tokenizers_give_transformers_the_same_ids(kind, tmp_path):
    if kind == "bytes":
        tokenizer = ByteTokenizer()
    else:
        tokenizer = train_sentencepiece(
            TEXTS[:3] * 20, algorithm=kind, vocab_size=291, user_symbols=["<sep>"], mask=True
        )
    tokenizer_files.save(tokenizer, tmp_path, frames=None, max_len=16, num_types=1)

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)

    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert theirs(text, add_special_tokens=False).input_ids == ids.tolist()
        assert theirs.decode(ids.tolist()) == text
    for name in ("bos", "eos", "pad", "mask"):
        assert getattr(theirs, f"{name}_token_id") == getattr(tokenizer, f"{name}_id")
