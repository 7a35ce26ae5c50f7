"""GPT-2's weights and hyperparameters as `transformers` names them, both ways.

One table serves both directions, so that they cannot drift apart.

Dimension key: N layers, D model width, H heads, K head width, F MLP width.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lm.errors import UserError

MODEL_TYPE = "gpt2"
PREFIX = "transformer."
# Buffers of causal masks in files of old versions; they hold nothing that was learned.
IGNORED_SUFFIXES = (".attn.bias", ".attn.masked_bias")
TIED = ("lm_head.weight", "wte.weight")


class Entry(NamedTuple):
    """One tensor of theirs, and the arrays of ours that it holds side by side.

    theirs: its name without the prefix; `{i}` counts layers.
    ours: paths in the parameter tree. More than one: they are concatenated along the last dimension
      of theirs, each with the dimensions of ours behind the first flattened.
    """

    theirs: str
    ours: tuple[tuple[str, ...], ...]


def _layer(theirs: str, *ours: str) -> Entry:
    return Entry("h.{i}." + theirs, tuple(("layers", *path.split("/")) for path in ours))


# Their Conv1D keeps its weight as in x out, as our kernels are, so nothing is transposed.
TABLE = [
    Entry("wte.weight", (("token_embedding",),)),
    Entry("wpe.weight", (("position_embedding",),)),
    _layer("ln_1.weight", "attention_norm/scale"),
    _layer("ln_1.bias", "attention_norm/bias"),
    _layer(
        "attn.c_attn.weight",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
    ),
    _layer(
        "attn.c_attn.bias", "attention/query/bias", "attention/key/bias", "attention/value/bias"
    ),
    _layer("attn.c_proj.weight", "attention/out/kernel"),
    _layer("attn.c_proj.bias", "attention/out/bias"),
    _layer("ln_2.weight", "mlp_norm/scale"),
    _layer("ln_2.bias", "mlp_norm/bias"),
    _layer("mlp.c_fc.weight", "mlp/in/kernel"),
    _layer("mlp.c_fc.bias", "mlp/in/bias"),
    _layer("mlp.c_proj.weight", "mlp/out/kernel"),
    _layer("mlp.c_proj.bias", "mlp/out/bias"),
    Entry("ln_f.weight", (("final_norm", "scale"),)),
    Entry("ln_f.bias", (("final_norm", "bias"),)),
]


def shape_of(entry: Entry, shapes: dict[tuple[str, ...], tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that one tensor of theirs must have, given those of ours."""
    ours = [_without_layers(path, shapes[path]) for path in entry.ours]
    rank = 2 if entry.theirs.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else 1
    if entry.theirs in ("wte.weight", "wpe.weight"):
        return ours[0]
    if rank == 1:
        return (sum(int(np.prod(shape)) for shape in ours),)
    if entry.theirs.endswith("attn.c_proj.weight"):
        H, K, D = ours[0]
        return (H * K, D)
    return (ours[0][0], sum(int(np.prod(shape[1:])) for shape in ours))


def _without_layers(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if path[0] == "layers" else shape


def split(entry: Entry, tensor: np.ndarray, shapes) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """One tensor of theirs -> each array of ours that it holds, in our shape."""
    pieces = np.split(tensor, len(entry.ours), axis=-1)
    for path, piece in zip(entry.ours, pieces, strict=True):
        yield path, piece.reshape(_without_layers(path, shapes[path]))


def join(entry: Entry, ours: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Inverts `split`."""
    flat_shape = (*shape[:-1], shape[-1] // len(ours))
    return np.concatenate([x.reshape(flat_shape) for x in ours], axis=-1)


def model_block(config: dict[str, Any]) -> dict[str, Any]:
    """config.json -> the `model` block of ours. Absent keys have the defaults of transformers.

    Raises:
      UserError: a setting that changes the arithmetic and that our model does not have.
    """
    expected = {
        "activation_function": ("gelu_new", "gelu_new"),
        "layer_norm_epsilon": (1e-5, 1e-5),
        "scale_attn_weights": (True, True),
        "scale_attn_by_inverse_layer_idx": (False, False),
        "add_cross_attention": (False, False),
        "tie_word_embeddings": (True, True),
    }
    for key, (default, wanted) in expected.items():
        value = config.get(key, default)
        if value != wanted:
            raise UserError(f"config.json: {key}={value!r} is not supported; only {wanted!r} is")
    rates = {config.get(k, 0.1) for k in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(rates) > 1:
        raise UserError(
            f"config.json: three dropout rates {sorted(rates)}; only one rate is supported"
        )
    width, heads = config["n_embd"], config["n_head"]
    return dict(
        name="gpt2",
        vocab_size=config["vocab_size"],
        max_len=config["n_positions"],
        num_layers=config["n_layer"],
        num_heads=heads,
        head_dim=width // heads,
        model_dim=width,
        mlp_dim=config.get("n_inner") or 4 * width,
        dropout=rates.pop(),
        dtype="auto",
        attention="auto",
        remat="none",
        scan_layers=False,
    )


def hf_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `model_block`.

    Raises:
      UserError: a shape that `transformers` cannot express.
    """
    if model["num_heads"] * model["head_dim"] != model["model_dim"]:
        raise UserError(
            f"model.num_heads={model['num_heads']} x model.head_dim={model['head_dim']} is not "
            f"model.model_dim={model['model_dim']}, and transformers' GPT-2 has no other shape"
        )
    return dict(
        architectures=["GPT2LMHeadModel"],
        model_type=MODEL_TYPE,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        vocab_size=model["vocab_size"],
        n_positions=model["max_len"],
        n_layer=model["num_layers"],
        n_head=model["num_heads"],
        n_embd=model["model_dim"],
        n_inner=model["mlp_dim"],
        resid_pdrop=model["dropout"],
        embd_pdrop=model["dropout"],
        attn_pdrop=model["dropout"],
        tie_word_embeddings=True,
    )
