"""Writes a decoder as programs of StableHLO, which JAX runs without this project.

Dimension key: B batch, L prompt length, G key/value heads, M slots, K head width, V vocabulary.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from lm.errors import UserError
from lm.generation import decoding
from lm.inference import model_card, prompting, stablehlo_loader
from lm.interop import tensor_files, tokenizer_files
from lm.loading.run import Run
from lm.models.families import family_of
from lm.models.kv_cache import LayerCache, unstack_layers
from lm.settings import choose
from lm.system import atomic_files

PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "bfloat16")
_UNSTATED = model_card.Stated()


def export(
    run: Run,
    target: str | os.PathLike[str],
    *,
    prompt_lens: Sequence[int],
    cache_len: int,
    dtype: str = "float32",
    stated: model_card.Stated = _UNSTATED,
) -> None:
    """Writes programs for `PLATFORMS`, the weights that they take, and a loader in Python.

    Args:
      run: of `lm.load`, of a decoder that writes; adapters are merged.
      target: a folder that does not exist yet.
      prompt_lens: a program is written for prompts of up to each of these numbers of tokens.
      cache_len: a prompt and what is written behind it have at most so many tokens.
      dtype: of weights, arithmetic and caches.
      stated: for the model card.

    Raises:
      UserError: the folder exists, another kind of model, or numbers that do not fit it.
    """
    target = pathlib.Path(target)
    _check(run, target, sorted(prompt_lens), cache_len, dtype)
    config = dataclasses.replace(run.model.config, dtype=dtype)
    model = type(run.model)(config)
    params = unstack_layers(run.params, dtype)
    paths, tree = jax.tree_util.tree_flatten_with_path(params)
    weights = {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in paths}
    names, num_known = list(weights), run.tokenizer.vocab_size
    params_of = lambda weights: jax.tree.unflatten(tree, [weights[name] for name in names])
    # Programs know tuples, and no classes of ours; nor ids that stand for no token.
    known = lambda logits_BV, caches: (
        logits_BV[:, :num_known],
        [(cache.k_BGMK, cache.v_BGMK) for cache in caches],
    )

    def prefill(weights, tokens_BL, lengths_B):
        num_new = cache_len - tokens_BL.shape[1]
        inputs = params_of(weights), tokens_BL, lengths_B
        logits_BV, _, caches = decoding.start(model, *inputs, num_new=num_new, start_id=0)
        return known(logits_BV, caches)

    def step(weights, tokens_B, positions_B, caches):
        caches = [LayerCache(*cache) for cache in caches]
        return known(*decoding.step(model, params_of(weights), tokens_B, positions_B, caches))

    shape_of = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    int32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
    (B,) = jax_export.symbolic_shape("B")  # Any number of rows.
    inputs = jax.tree.map(shape_of, weights)
    cache = jax.eval_shape(prefill, inputs, int32(1, min(prompt_lens)), int32(1))[1]
    caches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((B, *x.shape[1:]), x.dtype), cache)
    programs = {"step": (step, (int32(B), int32(B), caches))}
    programs |= {f"prefill_{L}": (prefill, (int32(B, L), int32(B))) for L in prompt_lens}
    target.mkdir(parents=True)
    for name, (function, arguments) in programs.items():
        exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(inputs, *arguments)
        atomic_files.write(target / f"{name}.bin", bytes(exported.serialize()))
    arrays = {name: np.asarray(x) for name, x in weights.items()}
    tensor_files.write_tensors(target / "weights.safetensors", arrays)
    settings = {
        "prompt_lens": sorted(prompt_lens),
        "cache_len": cache_len,
        "dtype": dtype,
        "platforms": PLATFORMS,
        "jax_version": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "start_ids": [*prompting.affixes_of(run.config, run.tokenizer).start],
        "stop_ids": [*prompting.stops(run.tokenizer, prompting.chat_template(run)).ids],
    }
    atomic_files.write(target / "settings.json", json.dumps(settings, indent=2) + "\n")
    shutil.copyfile(stablehlo_loader.__file__, target / "loader.py")
    frames = prompting.frames_of(run)
    tokenizer_files.save(run.tokenizer, target, frames=frames, max_len=cache_len, num_types=1)
    model_card.write(run, target, stated, library="jax", use="python loader.py IDS")


def _check(run: Run, target: pathlib.Path, prompt_lens: Sequence[int], cache_len: int, dtype: str):
    if target.exists():
        raise UserError(f"target={target} exists already; name a new folder")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("format=stablehlo needs flatbuffers; run: pip install flatbuffers")
    choose("dtype", dtype, DTYPES)
    if "body" in run.params or family_of(run.model).architecture != "decoder":
        name = run.config["model"]["name"]
        raise UserError(
            f"format=stablehlo is for decoders that write, and source={run.folder} is a {name}"
            + (" with the head of a task" if "body" in run.params else "")
        )
    max_len = run.model.config.max_len
    if not 1 < cache_len <= max_len:
        raise UserError(
            f"cache_len={cache_len} must be from 2 to the model's max_len={max_len} positions"
        )
    if not prompt_lens or not 0 < prompt_lens[0] <= prompt_lens[-1] < cache_len:
        raise UserError(
            f"prompt_lens={tuple(prompt_lens)} must be numbers of tokens from 1 to "
            f"cache_len - 1 = {cache_len - 1}"
        )
