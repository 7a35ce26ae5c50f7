import pytest

from lm.costs import flops


# Tokens a second and MFU of a torch GPT-2 124M (124,439,808 parameters, with a vocabulary padded to
# 50,304: 124,475,904) at T=1024 on one H100.
@pytest.mark.parametrize(("tokens_per_second", "mfu"), [(478_000, 0.416), (490_000, 0.426)])
def test_mfu_of_a_measured_run(tokens_per_second, mfu):
    cost = flops.train_flops([(124_475_904, 1024)], [(12, 768, 1024, 1024)]) / 1024
    peak = flops.peak_flops("NVIDIA H100 80GB HBM3")

    assert flops.mfu(tokens_per_second, cost, peak) == pytest.approx(mfu, abs=0.003)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v4", 275e12),
        ("cpu", None),
    ],
)
def test_peaks_by_the_name_that_jax_gives_a_device(kind, peak):
    assert flops.peak_flops(kind) == peak
