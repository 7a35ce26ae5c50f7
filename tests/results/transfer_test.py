"""The report on the best learning rate by width, from folders that are made up."""

import json
import math

import numpy as np
import pytest

from configs import quickstart
from configs.sweeps import mup_transfer
from lm.models import mup
from lm.models.families import FAMILIES
from lm.results import transfer

WIDTHS = (64, 128, 256)
RATES = tuple(2.0**-e for e in range(11, 4, -1))


def write(folder, *, mup, width, rate, seed, loss):
    folder.mkdir(parents=True)
    model = dict(model_dim=width, mup_model_dim=64 if mup else 0)
    config = dict(model=model, optimizer=dict(peak_lr=rate), seed=seed)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"step": 1, "eval/loss": 9.0}, {"step": 2, "eval/loss": loss}]
    lines += [{"step": 2, "run/done": 1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_all(folder, best_exponent):
    """`best_exponent(has_mup, width)` is where a parabola in log2 rate is lowest."""
    for has_mup in (False, True):
        for width in WIDTHS:
            for rate in RATES:
                for seed in (0, 1):
                    away = math.log2(rate) - best_exponent(has_mup, width)
                    loss = 5 - width / 1000 + 0.1 * away**2 + 0.02 * (seed - 0.5)
                    name = f"{has_mup}-{width}-{rate}-{seed}"
                    write(folder / name, mup=has_mup, width=width, rate=rate, seed=seed, loss=loss)


def moving(has_mup, width):
    return -8.25 if has_mup else -7.25 - math.log2(width / 64)


def test_the_best_rates_and_how_far_they_move(tmp_path, capsys):
    write_all(tmp_path, moving)

    assert transfer.main([str(tmp_path)]) == 0

    found = transfer.curves(transfer.finished(tmp_path)[0])
    assert [*found] == [(m, w) for m in (False, True) for w in WIDTHS]
    for (has_mup, width), curve in found.items():
        assert math.log2(curve.best_rate) == pytest.approx(moving(has_mup, width), abs=1e-6)
        np.testing.assert_allclose(curve.errors, 0.01, rtol=1e-6)  # 0.02 / sqrt(2) / sqrt(2).
    out = capsys.readouterr().out
    assert "standard: the best rate moves by -2.00 octaves\n" in out
    assert "muP: the best rate moves by +0.00 octaves\n" in out
    assert (tmp_path / "transfer.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("best_exponent", "code", "words"),
    [
        (lambda has_mup, width: -7 - math.log2(width / 64), 1, "does not transfer"),
        (lambda has_mup, width: -12 if has_mup and width == 256 else -8, 2, "not known: add rates"),
    ],
)
def test_a_rate_that_moves_or_lies_outside_is_no_transfer(
    best_exponent, code, words, tmp_path, capsys
):
    write_all(tmp_path, best_exponent)

    assert transfer.main([str(tmp_path)]) == code

    assert f"muP: the rate {words}" in capsys.readouterr().out


def test_a_rate_at_which_one_seed_diverges_is_not_the_best():
    curve = transfer.curve(
        {0.1: [3.0, 3.0], 0.2: [2.0, 2.2], 0.4: [1.0, math.inf], 0.8: [math.inf]}
    )

    assert curve.is_inside and curve.best_rate == 0.2
    np.testing.assert_array_equal(np.isfinite(curve.means), [True, True, False, False])


def test_unfinished_runs_are_counted_and_a_null_is_a_divergence(tmp_path, capsys):
    write(tmp_path / "a", mup=True, width=64, rate=0.1, seed=0, loss=None)
    write(tmp_path / "b", mup=True, width=64, rate=0.2, seed=0, loss=3.0)
    (tmp_path / "b" / "metrics.jsonl").write_text('{"step": 1, "eval/loss": 1.0}\n{"step": ')

    assert transfer.main([str(tmp_path)]) == 2

    lines = capsys.readouterr().err.splitlines()
    assert "left out: runs that are not finished: 1" in lines
    assert lines[-1].startswith("error: standard has runs of 0 widths")
    assert transfer.finished(tmp_path)[0][0].loss == math.inf


def test_the_sweep_widens_the_base_shape_as_one():
    growths = set()
    for overrides in mup_transfer.sweep():
        config = quickstart.get_config("optimizer=adamw")
        config.update_from_flattened_dict(overrides)
        settings = {k: v for k, v in config.model.items() if k != "name"} | {"dtype": "float32"}
        growth = mup.growth(FAMILIES["gpt2"].config(**settings))
        growths.add(growth and tuple(growth.values()))

    assert growths == {None, (1, 1, 1, 1), (2, 2, 2, 1), (4, 4, 4, 1)}
    assert len(mup_transfer.sweep()) == 84
