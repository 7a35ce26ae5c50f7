"""Multi-head attention, and the choice of the kernel that computes it.

Dimension key:
  B batch    L query length    M key length    D model width    H heads    G key/value heads
  K head width
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.errors import UserError
from lm.models.kernels import KERNELS
from lm.models.layers import Dense, Matmul
from lm.models.masks import AttentionMask
from lm.settings import choose

# (q_BLHK, k_BMGK, v_BMGK) -> o_BLHK, closed over what is visible and whatever a family adds to it.
AttentionFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelRequirements:
    """What a kernel has to do, and where."""

    platform: str  # As `jax.default_backend()` says it.
    capability: tuple[int, int] | None  # See `compute_capability`.
    dtype: str
    dropout: float
    head_dim: int
    biased: bool  # The family adds something to the scores.
    causal: bool  # Every query sees at most what precedes it.
    prefix: bool  # The objective makes prefixes, which break causality.
    packed: bool  # A row may hold several documents.
    sequence_parts: int  # Devices that share a row; -1 for all that other axes leave.


def compute_capability() -> tuple[int, int] | None:
    """Returns the compute capability of this machine's NVIDIA GPUs, as (9, 0); None without any."""
    version = getattr(jax.devices()[0], "compute_capability", "")
    match = re.fullmatch(r"(\d+)\.(\d+)", version)  # AMD's GPUs have names there.
    return match and (int(match[1]), int(match[2]))  # As texts, "10.0" < "9.0".


class KernelChoice(NamedTuple):
    """A kernel, and, if it is the reference, why none that is made for this platform can run."""

    kernel: str
    reason: str


def choose_attention(name: str, needs: KernelRequirements) -> KernelChoice:
    """Resolves "auto" to the fastest kernel that can do the job here; checks any other name.

    Raises:
      UserError: an unknown name, or a kernel that cannot do what it is needed for.
    """
    reasons = {
        kernel: [reason for applies, reason in rules if applies]
        for kernel, rules in _obstacles(needs).items()
    }
    if name == "auto":
        # In order of speed, and the reference, which is last, has no obstacle.
        kernel = next(kernel for kernel in reasons if not reasons[kernel])
        skipped = MADE_FOR[needs.platform][:1] if kernel == "einsum" else []
        return KernelChoice(kernel, "; ".join(f"not {k}: {reasons[k][0]}" for k in skipped))
    if reasons[choose("model.attention", name, ("auto", *reasons))]:
        raise UserError(f"model.attention={name!r} cannot run: {reasons[name][0]}; use auto")
    return KernelChoice(name, "")


# The kernels of a platform other than the reference, the most general one first.
MADE_FOR = {"cpu": ["blocked"], "gpu": ["cudnn", "cudnn_lengths"], "tpu": ["splash"]}


def _obstacles(n: KernelRequirements) -> dict[str, list[tuple[bool, str]]]:
    """Lists for each kernel, the fastest first, what it may lack, and whether that is needed."""
    is_old = n.capability is not None and n.capability < (8, 0)
    # What `jax.nn.dot_product_attention` checks too, but only when the step is compiled.
    widest = 256 if n.capability is not None and n.capability >= (9, 0) else 128
    no_dropout = (n.dropout > 0, f"it has no dropout and model.dropout={n.dropout}")
    no_bias = (n.biased, "it adds no relative positions to the scores")
    no_prefix = (n.prefix, "it lets no token see what follows it")
    reason = f"it needs whole rows and parallel.sequence={n.sequence_parts}"
    whole_rows = (n.sequence_parts != 1, reason)  # -1, the rest of the devices, may be several.
    dotted = "none" if n.capability is None else "{}.{}".format(*n.capability)
    is_odd_head = n.head_dim % 8 != 0 or n.head_dim > widest
    cudnn = [
        (n.capability is None, f"it needs an NVIDIA GPU and this is a {n.platform}"),
        (is_old, f"it needs compute capability 8.0 and this GPU has {dotted}"),
        (n.dtype == "float32", f"it needs 16-bit floats and model.dtype={n.dtype}"),
        no_dropout,
        (is_odd_head, f"it needs a multiple of 8 up to {widest} and model.head_dim={n.head_dim}"),
        whole_rows,
    ]
    one_document = (n.packed, "it needs rows of one document and these are packed")
    return {
        "cudnn_lengths": [*cudnn, one_document, no_prefix],
        "cudnn": cudnn,
        "splash": [
            (n.platform != "tpu", f"it needs a TPU and this is a {n.platform}"),
            no_dropout,
            no_bias,
            no_prefix,
            whole_rows,
        ],
        "blocked": [
            (n.platform != "cpu", f"it is made for CPUs and this is a {n.platform}"),
            (n.dtype != "float32", f"it needs float32 and model.dtype={n.dtype}"),
            (not n.causal, "it lets no token see what follows it"),
            no_dropout,
            no_bias,
        ],
        "einsum": [],
    }


def make_attention_fn(name: str, visible: AttentionMask, **more) -> AttentionFn:
    """Binds the kernel of this name, one of `lm.models.kernels.KERNELS`, to what is visible.

    `more` may hold `bias_HLM` to add to the scores, `scale` in place of 1/sqrt(K), and `dropout`
    for the probabilities, as far as the kernel knows of them.
    """
    # What is None is left out: a kernel has no argument for what it cannot do.
    more = {key: value for key, value in more.items() if value is not None}
    return functools.partial(KERNELS[name], visible=visible, **more)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype
    matmul: Matmul
    in_bias: bool = True
    out_bias: bool = True
    query_init: nn.initializers.Initializer | None = None  # None: as for keys and values.

    @nn.compact
    def __call__(self, x_BLD: jax.Array, y_BMD: jax.Array, attend: AttentionFn) -> jax.Array:
        """Queries from B x L x D, keys and values from B x M x D -> B x L x D."""
        D = x_BLD.shape[-1]
        dense = functools.partial(Dense, dtype=self.dtype, matmul=self.matmul)
        into = lambda heads, init, name: dense(
            (heads, self.head_dim), init, use_bias=self.in_bias, name=name
        )
        q_BLHK = into(self.num_heads, self.query_init or self.in_init, "query")(x_BLD)
        k_BMGK = into(self.num_kv_heads, self.in_init, "key")(y_BMD)
        v_BMGK = into(self.num_kv_heads, self.in_init, "value")(y_BMD)
        o_BLHK = attend(q_BLHK, k_BMGK, v_BMGK)
        out = dense((D,), self.out_init, num_in_dims=2, use_bias=self.out_bias, name="out")
        return out(o_BLHK)
