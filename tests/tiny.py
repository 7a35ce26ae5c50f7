"""A GPT-2 so small that it compiles in a second, shared by tests."""

import jax
import jax.numpy as jnp

from lm.models.gpt2 import GPT2, GPT2Config

CONFIG = GPT2Config(
    vocab_size=23,
    max_len=16,
    num_layers=2,
    num_heads=2,
    head_dim=4,
    model_dim=8,
    mlp_dim=32,
    dropout=0.0,
    dtype="float32",
    attention="einsum",
    remat="none",
    scan_layers=False,
)


def shapes(config=CONFIG):
    """The parameter tree as shapes."""
    tokens_BL = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(GPT2(config).init, jax.random.key(0), tokens_BL, tokens_BL, None)[
        "params"
    ]
