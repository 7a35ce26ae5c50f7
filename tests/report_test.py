import jax
import pytest

from configs import bert, classify, gpt2, t5
from experiments import build, report


@pytest.mark.parametrize(
    ("config", "changes", "line"),
    [
        (gpt2.get_config("debug"), {}, "bfloat16, attention by cudnn"),
        (gpt2.get_config("debug"), {"matmul": "fp8"}, "cudnn, products of layers in fp8"),
        (t5.get_config("debug"), {"dropout": 0.0}, "bfloat16, attention by cudnn"),
        (
            bert.get_config("debug"),
            {"dropout": 0.1},
            "bfloat16, attention by einsum (not cudnn: it has no dropout and model.dropout=0.1)",
        ),
        (
            gpt2.get_config("debug"),
            {"dtype": "float32", "attention": "einsum"},
            "float32, attention by einsum",
        ),
        (
            classify.get_config("debug"),
            {"dropout": 0.0},
            "bfloat16, attention by cudnn_lengths",
        ),
    ],
)
def test_a_run_on_a_gpu_says_which_kernel_it_takes_and_why_that_is_no_fast_one(
    config, changes, line, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(build, "compute_capability", lambda: (9, 0))
    config.model.update(changes)

    assert report.compute_line(config).endswith(line)
