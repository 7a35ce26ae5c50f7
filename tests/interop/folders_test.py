"""What the files of a folder hold is read, refused by name, or said to be left out; and a run whose
config.json was edited is refused wherever runs are opened."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers as t
from flax.traverse_util import flatten_dict

from configs import convert as convert_config
from configs import generate as generate_config
from configs import quickstart
from experiments import convert, generate
from experiments.wiring import init_from
from lm.errors import UserError
from lm.interop import hugging_face, tensor_files
from lm.loading import language_model, task_model
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.tokenizers import tokenizers
from tests.interop import task_folders_test

LLAMA = dict(
    vocab_size=len(task_folders_test.WORDS),
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=32,
)
NORM, QUERY = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**LLAMA))
    return task_folders_test.save(model, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def shapes(llama):
    return shapes_of(llama)


def shapes_of(folder):
    model = make_model(hugging_face.load_model_block(folder), causal=True)
    return {path: x.shape for path, x in flatten_dict(param_shapes(model)).items()}


@pytest.fixture
def folder(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "folder")
    return tmp_path / "folder"


def tensors(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def write(folder, tensors, name="model.safetensors"):
    safetensors.numpy.save_file(tensors, folder / name, metadata={"format": "pt"})


def write_index(folder, weight_map):
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


def shard(folder):
    """Two files in place of one, and an index that is right."""
    all_tensors = tensors(folder)
    (folder / "model.safetensors").unlink()
    write(folder, {NORM: all_tensors.pop(NORM)}, "b.safetensors")
    write(folder, all_tensors, "a.safetensors")
    return dict.fromkeys(all_tensors, "a.safetensors") | {NORM: "b.safetensors"}


@pytest.mark.parametrize("leave_out", ["nothing", "heads"])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.mlp.down_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.embed_positions.weight",
        "layers.0.self_attn.k_proj.bias",
    ],
)
def test_a_tensor_of_the_body_without_a_place_is_refused_by_name(folder, shapes, name, leave_out):
    write(folder, tensors(folder) | {name: np.zeros(12, np.float32)})

    with pytest.raises(UserError, match=f"unknown keys: {name}"):
        hugging_face.plan(folder, shapes, leave_out=leave_out)


@pytest.mark.parametrize("name", ["score.weight", "v_head.summary.weight", "classifier.bias"])
def test_another_head_is_left_out_by_name(folder, shapes, name):
    write(folder, tensors(folder) | {name: np.zeros(12, np.float32)})

    assert hugging_face.plan(folder, shapes, leave_out="heads").left_out == [name]
    with pytest.raises(UserError, match=rf"{name}.*--config\.allow_unknown=True"):
        hugging_face.plan(folder, shapes)


BUFFERS = {
    "llama": ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"],
    "gpt2": ["transformer.h.0.attn.bias", "h.1.attn.masked_bias"],
    "bert": ["bert.embeddings.position_ids", "embeddings.token_type_ids"],
}


@pytest.mark.parametrize("model_type", BUFFERS)
def test_buffers_are_no_parameters(model_type, llama, tmp_path):
    makers = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**task_folders_test.GPT2 | {"n_layer": 2})),
        "bert": lambda: t.BertForMaskedLM(t.BertConfig(**task_folders_test.SIZES)),
    }
    makers[model_type]().save_pretrained(tmp_path)
    buffers = {name: np.zeros((1, 4), np.uint8) for name in BUFFERS[model_type]}
    write(tmp_path, tensors(tmp_path) | buffers)

    assert not hugging_face.plan(tmp_path, shapes_of(tmp_path)).left_out


@pytest.mark.parametrize("dtype", ["int32", "bool", "float64", "float8_e4m3fn", "uint8"])
def test_a_dtype_that_is_none_of_weights_is_refused_by_name(folder, shapes, dtype):
    edited = tensors(folder)
    as_torch = {name: torch.tensor(x) for name, x in edited.items()}
    as_torch[QUERY] = as_torch[QUERY].to(getattr(torch, dtype))
    import safetensors.torch

    safetensors.torch.save_file(as_torch, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UserError, match=f"{QUERY}.*(dtype|quantized)"):
        hugging_face.plan(folder, shapes)


@pytest.mark.parametrize(
    "name", ["weight_scale", "weight_scale_inv", "qweight", "weight.absmax", "input_scale"]
)
def test_a_quantized_folder_is_said_to_be_one(folder, shapes, name):
    write(folder, tensors(folder) | {f"model.layers.0.mlp.up_proj.{name}": np.ones(1, np.float32)})

    with pytest.raises(UserError, match=rf"{name} \(F32\) says that the weights are quantized"):
        hugging_face.plan(folder, shapes, leave_out="anything")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_by_name(folder, shapes, value):
    edited = tensors(folder)
    edited[QUERY][3, 2] = value
    write(folder, edited)

    with pytest.raises(UserError, match=f"{QUERY} holds numbers that are not finite"):
        hugging_face.load_params(folder, shapes)


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_dtypes_may_be_mixed_and_none_is_rounded(folder, shapes, narrow):
    original = tensors(folder)
    mixed = {
        name: x if "norm" in name else x.astype(getattr(ml_dtypes, narrow, narrow))
        for name, x in original.items()
    }
    write(folder, mixed)

    loaded = hugging_face.load_params(folder, shapes)

    assert loaded.dtype == "float32"
    assert any("kept as float32" in note for note in loaded.notes)
    np.testing.assert_array_equal(loaded.params["final_norm"]["scale"], original[NORM])
    np.testing.assert_array_equal(
        loaded.params["token_embedding"],
        mixed["model.embed_tokens.weight"].astype(np.float32),
    )


def test_a_whole_file_is_read_and_an_index_beside_it_is_not(folder, shapes):
    original = tensors(folder)
    write(folder, {name: x + 1 for name, x in original.items()}, "a.safetensors")
    write_index(folder, dict.fromkeys(original, "a.safetensors"))

    model = t.AutoModelForCausalLM.from_pretrained(folder)

    found = hugging_face.load_params(folder, shapes).params["final_norm"]["scale"]
    np.testing.assert_array_equal(found, original[NORM])
    np.testing.assert_array_equal(model.model.norm.weight.detach(), original[NORM])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "modules.json"]
)
def test_weights_that_are_no_file_are_not_taken_for_absent(folder, shapes, name):
    if name.startswith("model."):
        (folder / "model.safetensors").unlink()
    (folder / name).symlink_to("gone")
    with pytest.raises(UserError, match=f"{name} is a link to nothing"):
        hugging_face.plan(folder, shapes)


def test_every_tensor_of_each_listed_file_counts(folder, shapes):
    """As in transformers, which does not go by the names in an index either."""
    listed = shard(folder)
    write_index(folder, {name: file for name, file in listed.items() if name != QUERY})

    model = t.AutoModelForCausalLM.from_pretrained(folder)

    params = hugging_face.load_params(folder, shapes).params
    theirs = model.model.layers[0].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(
        params["layers"]["attention"]["query"]["kernel"][0].reshape(12, 12), theirs.T
    )


INDICES = {
    "a file above": (lambda m: m | {NORM: "../b.safetensors"}, "only a name in this folder"),
    "an absolute path": (lambda m: m | {NORM: "/tmp/b.safetensors"}, "only a name in this"),
    "a path": (lambda m: m | {NORM: "x/b.safetensors"}, "only a name in this folder"),
    "the folder above": (lambda m: m | {NORM: ".."}, "only a name in this folder"),
    "no name": (lambda m: m | {NORM: 5}, "only a name in this folder"),
    "a missing file": (lambda m: m | {NORM: "c.safetensors"}, "names c.safetensors, which is not"),
    "a file that is none": (lambda m: m | {NORM: "config.json"}, r"^\S*config\.json is damaged"),
    "a tensor that no file has": (lambda m: m | {"model.x": "a.safetensors"}, "holds model.x"),
    "nothing": (lambda m: {}, "has no weight_map"),
    "no map": (lambda m: [1], "has no weight_map"),
}


@pytest.mark.parametrize("case", INDICES)
def test_an_index_that_cannot_be_is_one_line(folder, shapes, case):
    make, message = INDICES[case]
    write_index(folder, make(shard(folder)))

    with pytest.raises(UserError, match=message) as caught:
        hugging_face.plan(folder, shapes)
    assert str(caught.value).count(str(folder)) == 1


def test_a_tensor_in_two_files_is_refused(folder, shapes):
    write_index(folder, shard(folder))
    twice = safetensors.numpy.load_file(folder / "b.safetensors")
    write(folder, twice | {QUERY: np.zeros((12, 12), np.float32)}, "b.safetensors")

    with pytest.raises(UserError, match=f"a.safetensors both hold {QUERY}"):
        hugging_face.plan(folder, shapes)


def test_names_of_architectures_without_weights_are_one_line(folder):
    (folder / "model.safetensors").unlink()
    for names in (["A", "B"], None, "A", [5]):
        task_folders_test.edit(folder, architectures=names)
        with pytest.raises(UserError, match=r"holds no model\.safetensors.*AutoModel as M"):
            hugging_face.load_model_block(folder)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("has_head", [True, False])
def test_a_t5_repeats_its_embedding_as_transformers_does(scaled, has_head, tmp_path):
    config = t.T5Config(vocab_size=31, d_model=12, d_kv=6, d_ff=20, num_layers=1, num_heads=2)
    t.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    task_folders_test.edit(tmp_path, tie_word_embeddings=scaled, scale_decoder_outputs=scaled)
    own = np.random.default_rng(0).standard_normal((31, 12), np.float32)
    if has_head:
        write(tmp_path, tensors(tmp_path) | {"lm_head.weight": own})
    shared = tensors(tmp_path)["shared.weight"]
    model = t.T5ForConditionalGeneration.from_pretrained(tmp_path)
    np.testing.assert_array_equal(model.lm_head.weight.detach(), own if has_head else shared)
    assert model.config.scale_decoder_outputs == scaled

    if scaled and has_head:
        with pytest.raises(UserError, match=r"lm_head\.weight differs from shared\.weight"):
            hugging_face.load_params(tmp_path, shapes_of(tmp_path))
        return
    loaded = hugging_face.load_params(tmp_path, shapes_of(tmp_path))

    assert ("output_embedding" in loaded.params) == (not scaled)
    if not scaled:
        np.testing.assert_array_equal(
            loaded.params["output_embedding"], own if has_head else shared
        )
        assert any("lm_head.weight" in note for note in loaded.notes) == (not has_head)


def test_layers_are_counted_before_anything_is_made(folder):
    for num_layers in (1, 3, 2**31 - 1):
        task_folders_test.edit(folder, num_hidden_layers=num_layers)
        with pytest.raises(UserError, match=f"asks for {num_layers} layers, and the files hold 2"):
            hugging_face.load_model_block(folder)


@pytest.fixture(scope="module")
def imported(llama, tmp_path_factory):
    config = convert_config.get_config()
    config.update(source=str(llama), target=str(tmp_path_factory.mktemp("run") / "run"))
    convert.run(config, None)
    return pathlib.Path(config.target)


EDITS = {
    "model.num_layers": [3, 1, "2", None, 0],
    "model.model_dim": [24, -1],
    "model.vocab_size": [9, 1e9],
    "model.num_kv_heads": [2],
    "model.name": ["gpt2", "mamba", None, []],
    "model.qkv_bias": [True, "x"],
    "model.invented": [1],
    "model": [5, None, [], {}],
    "experiment": [None, 5, []],
}


@pytest.mark.parametrize("key", EDITS)
def test_a_run_whose_config_was_edited_is_refused_wherever_it_is_opened(key, imported, tmp_path):
    shutil.copytree(imported, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    text = path.read_text()
    exporting = convert_config.get_config()
    exporting.update(source=str(tmp_path / "run"), target=str(tmp_path / "out"))
    generating = generate_config.get_config()
    generating.update(checkpoint=str(tmp_path / "run"), prompt="a")
    training = quickstart.get_config("debug")
    own = make_model(training.model, causal=True)
    tokenizer = tokenizers.load(tmp_path / "run" / "tokenizer")
    openings = [
        lambda: language_model.load(tmp_path / "run"),
        lambda: convert.run(exporting, None),
        lambda: generate.run(generating, None),
        lambda: task_model.is_task_model(tmp_path / "run") or language_model.load(tmp_path / "run"),
        lambda: init_from.check(str(tmp_path / "run"), own, {}, tokenizer),
    ]
    for value in EDITS[key]:
        config = json.loads(text)
        *above, last = key.split(".")
        (config[above[0]] if above else config)[last] = value
        path.write_text(json.dumps(config))
        for opening in openings:
            with pytest.raises(UserError) as caught:
                opening()
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_opened_as_the_run_that_it_would_be_imported_as(llama, imported):
    found, expected = language_model.load(llama), language_model.load(imported)

    assert found.step == expected.step == 0
    assert found.tokenizer.fingerprint == expected.tokenizer.fingerprint
    for path, x in flatten_dict(found.params).items():
        np.testing.assert_array_equal(x, flatten_dict(expected.params)[path])
    assert jnp.asarray(found.params["token_embedding"]).shape == (LLAMA["vocab_size"], 12)


def test_the_header_of_a_file_is_read_once_until_the_file_changes(folder, shapes, monkeypatch):
    opened, real = [], tensor_files._open
    monkeypatch.setattr(tensor_files, "_open", lambda path: opened.append(path) or real(path))

    hugging_face.load_model_block(folder)
    assert not hugging_face.is_bare_encoder(folder)
    hugging_face.plan(folder, shapes)

    assert opened == [folder / "model.safetensors"]
    held = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(held | {NORM: np.ones(5, np.float32)}, opened[0])
    with pytest.raises(UserError, match="has shape"):
        hugging_face.plan(folder, shapes)
