"""Programs of StableHLO: a loader with JAX alone computes the same bits."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export

import lm
from configs import convert as convert_config
from configs import families
from experiments import convert
from lm.errors import UserError
from lm.generation import decoding, sampling
from lm.inference import stablehlo_export
from lm.models.factory import make_model
from lm.models.families import init_params, param_shapes
from lm.models.kv_cache import unstack_for_decoding
from tests.exported_pipelines_test import write_run

SHAPE = dict(num_heads=2, head_dim=4, model_dim=8, mlp_dim=16, max_len=64)
PROMPTS = [[5, 6, 7, 8], list(range(3, 20))]


def random_run(family, folder, num_layers=2):
    """A run with random parameters, and four rows more than its tokenizer has tokens."""
    config = families.get_config(f"family={family},tokenizer=bytes")
    config.model.update(SHAPE | {"vocab_size": 263, "num_layers": num_layers})
    rng = np.random.default_rng(0)
    noise = lambda x: np.asarray(x) + 0.3 * rng.standard_normal(x.shape).astype(np.float32)
    shapes = init_params(make_model(config.model, causal=True), jax.random.key(0))
    params = jax.tree.map(noise, shapes)
    return write_run(folder / "run", config, params, {"num_tokens": 0})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return random_run("gpt2", tmp_path_factory.mktemp("run"))


def exported(run, target, **settings):
    config = convert_config.get_config()
    config.update(source=str(run), target=str(target), format="stablehlo", **settings)
    assert convert.run(config.lock(), None) == 0
    return target


def loaded(folder):
    spec = importlib.util.spec_from_file_location("loader", folder / "loader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model(folder)


# Of eleven layers, names must not be put in the order 0, 1, 10, 2.
@pytest.mark.parametrize(("family", "num_layers"), [("gpt2", 2), ("llama", 11)])
def test_the_loader_computes_the_same_bits(family, num_layers, tmp_path):
    run = random_run(family, tmp_path, num_layers)
    theirs = loaded(exported(run, tmp_path / "out", prompt_lens=(2, 32), cache_len=48))
    ours = lm.load(run)
    model, params = ours.model, unstack_for_decoding(ours.params, "float32")
    tokens_BL, lengths_B = np.zeros((2, 32), np.int32), np.array([4, 17], np.int32)
    for row, prompt in zip(tokens_BL, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    read = jax.jit(lambda *inputs: decoding.start(model, *inputs, num_new=16, start_id=0))
    step = jax.jit(lambda *inputs: decoding.step(model, *inputs))

    expected_BV, positions_B, caches = read(params, tokens_BL, lengths_B)
    found_BV, place_B, theirs_caches = theirs.prefill(PROMPTS)

    assert found_BV.shape == (2, 259)
    for _ in range(4):
        np.testing.assert_array_equal(found_BV, expected_BV[:, :259])
        tokens_B = np.asarray(found_BV).argmax(-1)
        expected_BV, caches = step(params, tokens_B, positions_B, caches)
        found_BV, theirs_caches = theirs.step(tokens_B, place_B, theirs_caches)
        positions_B, place_B = positions_B + 1, place_B + 1
    np.testing.assert_array_equal(found_BV, expected_BV[:, :259])
    assert np.std(found_BV) > 0.1


def test_the_loader_needs_jax_alone_and_writes_what_generate_does(run, tmp_path):
    folder = exported(run, tmp_path / "out", prompt_lens=(8,))
    ours = lm.load(run)
    settings = dict(temperature=0.0, top_k=0, top_p=1.0, vocab_size=259, stop_ids=(2,))
    ids = [1, 70, 71]
    (sample,) = sampling.sample(
        ours.model, ours.params, [ids], jax.random.key(0), max_new_tokens=20, **settings
    )
    program = (
        f"import sys, runpy; sys.argv = {['loader.py', *map(str, ids)]}\n"
        f"runpy.run_path({str(folder / 'loader.py')!r}, run_name='__main__')\n"
        "print(*{'flax', 'lm', 'safetensors', 'optax', 'torch'} & {*sys.modules})"
    )

    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)

    written, others = done.stdout.decode().split("\n")[:2]
    end = [] if sample.stop_id is None else [sample.stop_id]
    assert [int(i) for i in written.split()] == sample.tokens + end
    assert others == ""
    said = json.loads((folder / "settings.json").read_text())
    assert said["cache_len"] == 64 and said["start_ids"] == [1] and said["stop_ids"] == [2]
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "loader.py",
        "prefill_8.bin",
        "step.bin",
        "settings.json",
        "weights.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    with pytest.raises(ValueError, match="9 tokens; prompts have 8 at most"):
        loaded(folder).prefill([[1] * 9])
    with pytest.raises(ValueError, match="num_new=60 exceeds 64"):
        loaded(folder).generate([1] * 5, 60)


def test_programs_call_nothing_that_one_platform_alone_has(run, tmp_path):
    folder = exported(run, tmp_path / "out", prompt_lens=(16,), dtype="bfloat16")

    for name in ("step.bin", "prefill_16.bin"):
        program = jax_export.deserialize(bytearray((folder / name).read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        calls = [line for line in program.mlir_module().split("\n") if "custom_call" in line]
        assert all("@shape_assertion" in line for line in calls), calls
    logits_BV, _, _ = loaded(folder).prefill(PROMPTS[:1])
    assert np.isfinite(logits_BV).all()
    assert (folder / "weights.safetensors").stat().st_size < 100_000


REFUSED = {
    "no lengths": ({}, r"prompt_lens=\(\) must be"),
    "too long": ({"prompt_lens": (64,)}, "from 1 to cache_len - 1 = 63"),
    "too many slots": ({"prompt_lens": (8,), "cache_len": 65}, "cache_len=65 must be from 2 to"),
    "a dtype": ({"prompt_lens": (8,), "dtype": "float16"}, "dtype='float16' is unknown"),
    "of gguf": ({"gguf_type": "F32"}, "gguf_type=F32 means nothing to format=stablehlo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_and_leaves_nothing(name, run, tmp_path):
    settings, message = REFUSED[name]

    with pytest.raises(UserError, match=message):
        exported(run, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_another_family_and_a_missing_package_are_refused(tmp_path, monkeypatch):
    config = families.get_config("family=t5,tokenizer=bytes")
    zeros = lambda x: np.zeros(x.shape, np.float32)
    params = jax.tree.map(zeros, param_shapes(make_model(config.model, causal=False)))
    run = write_run(tmp_path / "t5", config, params, {"num_tokens": 0})

    with pytest.raises(UserError, match=r"is for decoders that write, and .* is a t5"):
        exported(run, tmp_path / "out", prompt_lens=(8,))
    monkeypatch.setattr(stablehlo_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install flatbuffers"):
        exported(run, tmp_path / "out", prompt_lens=(8,))
    assert [path.name for path in tmp_path.iterdir()] == ["t5"]
