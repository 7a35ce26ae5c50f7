import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lm.errors import UserError
from lm.models import attention, kernels, masks
from lm.models.masks import AttentionMask
from lm.parallel.mesh import make_mesh


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heads(*shapes):
    """As many arrays of noise, and one for what the output is weighed with."""
    return [random(*shape, seed=seed) for seed, shape in enumerate([*shapes, shapes[0]])]


def with_gradients(kernel, seen, q, k, v, do, **more):
    """The output where `do` is not zero, and the gradients of q, k and v."""

    def total(q, k, v):
        o_BLHK = kernel(q, k, v, visible=seen, **more)
        return jnp.sum(o_BLHK * do), o_BLHK * (do != 0)

    grads, o_BLHK = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return o_BLHK, *grads


def assert_same(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), found, expected
    )


PACKED = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 2]], np.int32)
PADDED = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 10], np.int32)
PREFIX = np.array([[1, 0, 0, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize(
    ("seen", "row", "expected"),
    [
        (masks.causal(PACKED), 0, ["1", "11", "111", "0001", "00011", "000111"]),
        (masks.causal(PACKED, PREFIX), 0, ["1", "11", "111", "00011", "00011", "000111"]),
        (masks.causal(PACKED, PREFIX), 1, ["1111", "1111", "1111", "1111", "11111"]),
        (masks.causal(PACKED, window=2), 0, ["1", "11", "011", "0001", "00011", "000011"]),
        (masks.causal(None, window=2), 0, ["1", "11", "011", "0011"]),
        (masks.itself(PACKED), 0, ["111", "111", "111", "0001111"]),
        (AttentionMask(PACKED[:, :2], PACKED), 0, ["111", "111"]),
    ],
)
def test_what_is_visible(seen, row, expected):
    L = 10 if seen.segment_ids_BL is None else seen.segment_ids_BL.shape[1]
    mask_BLM = np.broadcast_to(seen.mask_BLM(L, 10), (2, L, 10))

    found = ["".join(map(str, line)) for line in mask_BLM[row].astype(int)]

    assert found[: len(expected)] == [line.ljust(10, "0") for line in expected]


def test_padding_sees_padding_so_that_no_row_is_empty():
    for seen in (masks.causal(PACKED), masks.itself(PADDED), masks.causal(PADDED, window=1)):
        assert np.all(np.any(seen.mask_BLM(10, 10), axis=2))


@pytest.mark.parametrize("length", [1, 3, 13, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_blocked_attention_and_its_gradient_are_those_of_the_reference(length, packed):
    inputs = heads(*[(2, length, 3, 5)] * 3)
    segment_ids_BL = jnp.asarray(np.sort(random(2, length) > 0, axis=1).astype(np.int32))
    seen = masks.causal(segment_ids_BL if packed else None)

    assert_same(
        with_gradients(kernels.blocked_attention, seen, *inputs),
        with_gradients(kernels.einsum_attention, seen, *inputs),
    )


CUDNN = {
    "packed": (kernels.cudnn_attention, masks.causal(PACKED), False),
    "packed, with a window": (kernels.cudnn_attention, masks.causal(PACKED, window=3), False),
    "a prefix": (kernels.cudnn_attention, masks.causal(PACKED, PREFIX), False),
    "both sides": (kernels.cudnn_attention, masks.itself(PACKED), True),
    "an odd length": (kernels.cudnn_attention, masks.causal(PACKED[:, :9]), True),
    "all": (kernels.cudnn_attention, masks.causal(None), False),
    "padded": (kernels.cudnn_lengths_attention, masks.itself(PADDED), True),
    "padded, causal": (kernels.cudnn_lengths_attention, masks.causal(PADDED), False),
    "padded, odd": (kernels.cudnn_lengths_attention, masks.causal(PADDED[:, :9]), True),
    "to another sequence": (
        kernels.cudnn_lengths_attention,
        AttentionMask(PADDED[:, :6], PADDED),
        False,
    ),
    "one document": (kernels.cudnn_lengths_attention, masks.causal(None, window=3), False),
}


@pytest.mark.parametrize("name", CUDNN)
def test_what_cudnn_is_asked_for_is_the_reference(name):
    kernel, seen, biased = CUDNN[name]
    L, M = (
        (10, 10)
        if seen.segment_ids_BL is None
        else (
            seen.segment_ids_BL.shape[1],
            seen.segment_ids_BM.shape[1],
        )
    )
    *inputs, do = heads((2, L, 4, 8), (2, M, 2, 8), (2, M, 2, 8))
    if kernel is kernels.cudnn_lengths_attention and seen.segment_ids_BL is not None:
        do *= (seen.segment_ids_BL > 0)[:, :, None, None]  # What padding gives is its own affair.
    more = dict(bias_HLM=random(4, L, M, seed=9), scale=1.0) if biased else {}

    assert_same(
        with_gradients(functools.partial(kernel, implementation="xla"), seen, *inputs, do, **more),
        with_gradients(kernels.einsum_attention, seen, *inputs, do, **more),
    )


@pytest.mark.parametrize(
    "rule", [dict(causal=True), dict(causal=True, window=3), dict()], ids=["causal", "window", "-"]
)
def test_splash_attention_is_the_reference_also_where_a_mesh_cuts_rows_and_heads(rule):
    seen = masks.itself(PACKED, **rule)
    inputs = heads((2, 10, 4, 8), (2, 10, 2, 8), (2, 10, 2, 8))
    kernel = functools.partial(kernels.splash_attention, interpret=True)
    mesh = make_mesh(
        strategy="jit", data=1 if "window" in rule else 2, fsdp=1, tensor=-1, sequence=1
    )
    cut = NamedSharding(mesh, P(("data", "fsdp"), None, "tensor"))

    with jax.set_mesh(mesh):
        found = with_gradients(kernel, seen, *(jax.device_put(x, cut) for x in inputs))

    assert_same(found, with_gradients(kernels.einsum_attention, seen, *inputs))


NEEDS = attention.KernelRequirements(
    platform="gpu",
    capability=(9, 0),
    dtype="bfloat16",
    dropout=0.0,
    head_dim=64,
    biased=False,
    causal=True,
    prefix=False,
    packed=True,
    sequence_parts=1,
)
ON_CPU = dict(platform="cpu", capability=None, dtype="float32")
ON_TPU = dict(platform="tpu", capability=None)


def choose(name="auto", **changes):
    return attention.choose_attention(name, dataclasses.replace(NEEDS, **changes))


@pytest.mark.parametrize(
    ("changes", "kernel", "reason"),
    [
        (dict(), "cudnn", ""),
        (dict(packed=False), "cudnn_lengths", ""),
        (dict(biased=True, causal=False), "cudnn", ""),
        (dict(prefix=True, packed=False), "cudnn", ""),
        (dict(dropout=0.1), "einsum", "not cudnn: it has no dropout and model.dropout=0.1"),
        (dict(dtype="float32"), "einsum", "model.dtype=float32"),
        (dict(head_dim=12), "einsum", "model.head_dim=12"),
        (dict(capability=(7, 5)), "einsum", "8.0 and this GPU has 7.5"),
        (dict(capability=None), "einsum", "an NVIDIA GPU"),
        (dict(sequence_parts=2), "einsum", "parallel.sequence=2"),
        (ON_CPU, "blocked", ""),
        (ON_CPU | dict(dtype="bfloat16"), "einsum", "not blocked: it needs float32"),
        (ON_CPU | dict(causal=False), "einsum", "what follows it"),
        (ON_TPU, "splash", ""),
        (ON_TPU | dict(causal=False), "splash", ""),
        (ON_TPU | dict(prefix=True), "einsum", "not splash: it lets no token see"),
        (ON_TPU | dict(biased=True), "einsum", "relative positions"),
    ],
    ids=str,
)
def test_auto_takes_the_fastest_kernel_that_can_do_it_and_says_why_it_is_a_slow_one(
    changes, kernel, reason
):
    choice = choose(**changes)

    assert choice.kernel == kernel
    assert reason in choice.reason and bool(reason) == bool(choice.reason)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cudnn", ON_TPU, "NVIDIA GPU and this is a tpu"),
        ("cudnn_lengths", dict(), "these are packed"),
        ("splash", dict(), "it needs a TPU and this is a gpu"),
        ("blocked", ON_CPU | dict(biased=True), "'blocked' cannot run"),
        ("flash", dict(), "'flash' is unknown; choose auto, cudnn_lengths, cudnn, splash"),
    ],
)
def test_a_kernel_asked_for_by_name_is_never_replaced(name, changes, message):
    with pytest.raises(UserError, match=message):
        choose(name, **changes)
