import jax
import jax.numpy as jnp
import pytest

from lm.costs import hardware, roofline

CHIP = hardware.chip_of("NVIDIA H200")
PEAK, BANDWIDTH = 989e12, 4.8e12
X_ND = jax.ShapeDtypeStruct((4096, 256), jnp.float32)
NUM_BYTES = 4 * 4096 * 256


def predicted(function, *inputs):
    return roofline.step_seconds(jax.jit(function).trace(*inputs).jaxpr, CHIP)


def passes(function):
    """How often all of `X_ND` goes through memory."""
    found = predicted(function, X_ND)
    assert found.products == found.attention == 0 and found.seconds == found.passes
    return found.passes * BANDWIDTH / NUM_BYTES


def centre(x_ND, axis):
    return x_ND - jnp.mean(x_ND, axis=axis, keepdims=True)


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (lambda x: x + 1, 2),
        (lambda x: jnp.exp(x + 1).reshape(-1)[None] * jnp.ones((1, x.size)), 2),
        (lambda x: (x.astype(jnp.bfloat16), x.astype(jnp.bfloat16) + 1), 2),
        (lambda x: centre(x, axis=1), 2),  # A row is there when its mean is.
        (lambda x: centre(x, axis=0), 3),  # Of columns, all rows are read for the mean before.
        (lambda x: jnp.exp(x).sum(), 1),
    ],
)
def test_what_lies_between_two_kernels_is_one_pass(function, times):
    assert passes(function) == pytest.approx(times, rel=0.01)


def test_what_only_looks_otherwise_is_read_as_it_is():
    seen = lambda x_ND: x_ND.reshape(256, 4096).astype(jnp.float32).T

    found = predicted(lambda x: seen(x) @ seen(x).T, jax.ShapeDtypeStruct((1, 2**20), jnp.bfloat16))

    assert found.passes == 0 and found.products > 0


def test_a_product_takes_the_longer_of_arithmetic_and_memory():
    square, row = (jax.ShapeDtypeStruct((n, 8192), jnp.bfloat16) for n in (8192, 1))

    assert predicted(jnp.matmul, square, square).products == 2 * 8192**3 / PEAK
    assert predicted(jnp.matmul, row, square).products == pytest.approx(
        2 * 8192**2 / BANDWIDTH, rel=1e-3
    )


def test_what_a_product_reads_is_written_first_and_a_loop_runs_as_often_as_it_says():
    step = lambda x_ND, _: (jnp.exp(x_ND @ x_ND), None)
    x_NN = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16)
    once = predicted(lambda x: step(x, None)[0], x_NN)

    looped = predicted(lambda x: jax.lax.scan(step, x, length=7)[0], x_NN)

    assert once.passes == 2 * 2 * 512**2 / BANDWIDTH
    assert looped == tuple(7 * seconds for seconds in once)


def test_random_numbers_are_counted():
    drop = lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.9, x.shape), x, 0)

    assert predicted(drop, X_ND).num_random == 4096 * 256


@pytest.mark.parametrize(
    ("kind", "name"),
    [("NVIDIA H100 80GB HBM3", "NVIDIA H100"), ("NVIDIA H100 PCIe", None), ("cpu", None)],
)
def test_chips_by_the_name_that_jax_gives_a_device(kind, name):
    chip = hardware.chip_of(kind)

    assert (chip and chip.name) == name
