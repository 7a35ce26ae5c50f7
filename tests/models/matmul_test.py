import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.models.matmul import matmul


@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize(("width", "columns"), [(4, 5), (5, 4)])
def test_a_product_and_its_gradient_are_those_of_autodiff(lead, width, columns):
    rng = np.random.default_rng(0)
    x_ND, w_DF, dy_NF = (
        rng.standard_normal((*lead, *shape)).astype(np.float32)
        for shape in ((7, width), (width, columns), (7, columns))
    )

    def with_gradients(product):
        total = lambda x_ND, w_DF: jnp.sum(product(x_ND, w_DF) * dy_NF)
        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x_ND, w_DF)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        with_gradients(matmul),
        with_gradients(jnp.matmul),
    )
