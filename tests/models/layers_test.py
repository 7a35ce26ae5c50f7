import pytest

from lm.models.layers import kernel_dims


@pytest.mark.parametrize(
    ("path", "ndim", "expected"),
    [
        ("layers/attention/query/kernel", 4, (1, 1, 2)),  # N x D x H x K
        ("encoder/layers/attention/out/kernel", 4, (1, 2, 1)),  # N x H x K x D
        ("layers/mlp/in/kernel", 3, (1, 1, 1)),  # N x D x F
        ("layers/mlp/out/kernel", 3, (1, 1, 1)),  # N x F x D
        ("decoder/layers/cross_attention/out/kernel", 4, (1, 2, 1)),
        ("pooler/kernel", 2, (0, 1, 1)),
        ("head/out/kernel", 2, (0, 1, 1)),
    ],
)
def test_the_dimensions_of_a_kernel(path, ndim, expected):
    assert kernel_dims(tuple(path.split("/")), ndim) == expected
