"""Curves of configs: means over runs, and what is drawn of them."""

import dataclasses

import numpy as np
import pytest
from matplotlib import image

from lm.errors import UserError
from lm.results import curves, plots
from lm.results.groups import grouped
from lm.results.reading import read
from lm.results.views import Choice
from tests.run_folders import config, losses, write

CHOICE = Choice(("eval/loss",), "last", None, ("seed",), False)


def curves_of(root, with_unfinished=False):
    (group,) = grouped(read(root, ("eval/loss",)).runs, ("seed",))
    return curves.curves_of([], "eval/loss", with_unfinished, group)


def test_a_curve_is_the_mean_of_finished_runs_at_the_steps_that_all_have(tmp_path):
    write(tmp_path / "0", config(0), losses(3.0, 2.0, 1.0))
    write(tmp_path / "1", config(1), losses(5.0, 2.0))
    write(tmp_path / "2", config(2), losses(9.0, 9.0, 9.0), done=False)

    mean, dead = curves_of(tmp_path)

    np.testing.assert_array_equal(mean.steps_T, [1, 2])
    np.testing.assert_array_equal(mean.mean_T, [4.0, 2.0])
    # Of 3 and 5: s = sqrt(2), over sqrt(2) runs.
    np.testing.assert_allclose(mean.error_T, [1.0, 0.0])
    assert mean.is_finished and mean.runs == ("0", "1") and mean.label == "2 runs: 0, 1"
    assert not dead.is_finished and dead.error_T is None and dead.label == "2: dead"
    (together,) = curves_of(tmp_path, with_unfinished=True)
    assert len(together.runs) == 3 and not together.is_finished


def test_nan_of_one_run_is_a_gap_in_the_mean(tmp_path):
    write(tmp_path / "0", config(0), losses(3.0, None, 1.0, 1.0, None))
    write(tmp_path / "1", config(1), losses(5.0, 2.0, 1.0, 1.0, 1.0))

    (curve,) = curves_of(tmp_path)

    np.testing.assert_array_equal(curve.mean_T, [4.0, np.nan, 1.0, 1.0, np.nan])
    assert curves.finite_parts(curve) == [slice(0, 1), slice(2, 4)]


@pytest.mark.parametrize("most, steps", [(5, [1, 2, 3, 4, 5]), (3, [1, 3, 5]), (2, [1, 5])])
def test_a_thinned_curve_keeps_its_ends(tmp_path, most, steps):
    write(tmp_path / "0", config(0), losses(5.0, 4.0, 3.0, 2.0, 1.0))

    thin = curves.thinned(*curves_of(tmp_path), most)

    np.testing.assert_array_equal(thin.steps_T, steps)
    np.testing.assert_array_equal(thin.mean_T, [6.0 - step for step in steps])


def test_the_best_configs_are_named(tmp_path):
    for i in range(12):
        write(tmp_path / str(i), config(lr=i / 100), losses(9.0, abs(i - 7)))

    chosen = curves.choose(read(tmp_path, ("eval/loss",)).runs, CHOICE)

    assert [group.runs[0].name for group in chosen.named][:3] == ["7", "6", "8"]
    assert [group.runs[0].name for group in chosen.others] == ["1", "0"]
    assert chosen.other_names("eval/loss") == "2 other configs"
    assert chosen.other_names("eval/accuracy") == ""  # None has it.


def test_dollars_of_a_config_are_no_formula(tmp_path):
    for name in ("a$b", "$x_$", "\\frac"):
        write(tmp_path / "runs" / name, config(name=name), [{"step": 1, "eval/$_$": 1.0}])
    runs = read(tmp_path / "runs", None).runs

    plots.save(runs, dataclasses.replace(CHOICE, metrics=("eval/$_$",)), tmp_path / "plots")


def test_a_picture_a_metric(tmp_path):
    for i in range(12):
        write(tmp_path / "runs" / str(i), config(i % 2, lr=i // 2), losses(900.0, i + 1.0, None))
    runs = read(tmp_path / "runs", ("eval/loss",)).runs

    (path,), _ = plots.save(runs, CHOICE, tmp_path / "new/plots")

    assert path == tmp_path / "new/plots/eval_loss.png"
    pixels = (255 * image.imread(path)[..., :3]).round().astype(int)
    colors = {*map(tuple, pixels.reshape(-1, 3).tolist())}
    assert {(0x1F, 0x77, 0xB4), (0x8C, 0x56, 0x4B)} <= colors  # The first and the sixth config.
    with pytest.raises(UserError, match="no run has logged"):
        plots.save(runs, dataclasses.replace(CHOICE, metrics=()), tmp_path)
