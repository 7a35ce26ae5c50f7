import math

import numpy as np
import pytest
from scipy import stats

from lm.errors import UserError
from lm.results import groups
from lm.results.reading import read
from tests.run_folders import config, losses, write, write_sweep


def runs_of(root, metrics=("eval/loss",)):
    return read(root, metrics).runs


def estimate_of(runs, at="last", mode="min", with_unfinished=False, metric="eval/loss"):
    (group,) = groups.grouped(runs, ["seed"])
    return groups.estimate(group, metric, at=at, mode=mode, with_unfinished=with_unfinished)


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{"a": 1, "b": 2}, {"a": 1, "b": 3}], ["b"]),
        ([{"a": 1}, {"a": 1, "b": None}], ["b"]),  # Absent is not null.
        ([{"a": 1}, {"a": 1.0}], ["a"]),
        ([{"a": True}, {"a": 1}], ["a"]),
        ([{"a": [1, 2]}, {"a": [1, 2]}], []),
        ([{"a": 1}], []),
    ],
)
def test_only_what_differs_is_named(configs, expected):
    assert groups.differences(configs) == expected


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.01), ("c", 0.003)):
        for seed in (0, 1):
            write(tmp_path / f"{name}{seed}", config(seed, lr), [])
    write(tmp_path / "d", config(0, 0.1, extra={"on": True}), [])

    found = groups.grouped(runs_of(tmp_path), ["seed"])

    keys = groups.telling(found)
    assert [(g.label(keys), [run.name for run in g.runs]) for g in found] == [
        ("optimizer.peak_lr=0.003", ["c0", "c1"]),
        ("optimizer.peak_lr=0.01", ["b0", "b1"]),
        ("optimizer.peak_lr=0.1", ["a0", "a1"]),
        ("optimizer.peak_lr=0.1 extra.on=true", ["d"]),
    ]
    assert found[0].named(keys, ["c0", "c1"]) == "optimizer.peak_lr=0.003 (2 runs: c0, c1)"
    assert found[3].named(keys, ["d: dead"]) == "optimizer.peak_lr=0.1 extra.on=true (d: dead)"
    assert len(groups.grouped(runs_of(tmp_path), ["optimizer.peak_lr"])) == 3
    assert len(groups.grouped(runs_of(tmp_path), [])) == 7


def test_groups_are_told_apart_by_the_first_few_keys(tmp_path):
    odd = dict(zip("abcdef", range(6), strict=True))  # What another task has of its own.
    for i, (lr, more) in enumerate(((0.1, {}), (0.3, {}), (0.3, odd), (0.3, odd | {"f": 9}))):
        other = dict.fromkeys("uvwxyz", "f" in more)
        write(tmp_path / str(i), config(0, lr, **other, **more), [])

    found = groups.grouped(runs_of(tmp_path), ["seed"])
    keys = groups.telling(found)

    assert {"optimizer.peak_lr", "f"} <= set(keys[:3]) and not {*"abcde"} & set(keys)
    assert len({group.label(keys) for group in found}) == 4


def test_a_copy_of_a_run_does_not_count_twice(tmp_path):
    write(tmp_path / "a", config(0), losses(1.0), done=False)
    write(tmp_path / "b", config(0), losses(1.0, 2.0))
    write(tmp_path / "c", config(1), losses(4.0))

    (group,) = groups.grouped(runs_of(tmp_path), ["seed"])

    assert [run.name for run in group.runs] == ["b", "c"] and group.copies == ("a",)


def test_mean_and_standard_error_by_hand(tmp_path):
    write_sweep(tmp_path, {(0.1, 0): 1.0, (0.1, 1): 2.0, (0.1, 2): 6.0})

    found = estimate_of(runs_of(tmp_path))

    assert found.mean == 3.0
    # Deviations -2, -1, 3: variance 14 / 2 = 7, of the mean 7 / 3.
    assert found.standard_error == pytest.approx(math.sqrt(7 / 3), rel=1e-15)
    assert found.standard_error == pytest.approx(stats.sem([1.0, 2.0, 6.0]), rel=1e-15)
    assert found.values == {"lr0.1-s0": 1.0, "lr0.1-s1": 2.0, "lr0.1-s2": 6.0}


def test_intervals_are_quantiles_of_resampled_means():
    values = [1.0, 2.0, 6.0, 4.0]

    low, high = groups.bootstrap_interval(values)

    # All 4 ** 4 resamples, of which the bootstrap draws some thousand.
    means = np.stack(np.meshgrid(*[values] * 4)).reshape(4, -1).mean(axis=0)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.26)
    assert groups.bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    assert groups.bootstrap_interval([2.0]) is None and groups.bootstrap_interval([]) is None


def test_intervals_of_large_samples_agree_with_the_central_limit():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)

    low, high = groups.bootstrap_interval(values)

    expected = values.mean() + 1.96 * stats.sem(values) * np.array([-1, 1])
    np.testing.assert_allclose([low, high], expected, atol=0.02)
    assert (low, high) == groups.bootstrap_interval(values)


def test_last_and_best_values(tmp_path):
    write(tmp_path / "run", config(), losses(3.0, None, 1.0, 2.0))
    (run,) = runs_of(tmp_path)

    assert groups.final(run, "eval/loss", "last", None) == 2.0
    assert groups.final(run, "eval/loss", "best", "min") == 1.0
    assert groups.final(run, "eval/loss", "best", "max") == 3.0
    assert groups.final(run, "eval/other", "best", "max") is None


def test_what_does_not_count_is_named(tmp_path):
    write_sweep(tmp_path, {(0.1, 0): 1.0, (0.1, 1): None})
    write(tmp_path / "dead", config(2), losses(9.0), done=False)
    write(tmp_path / "silent", config(3), [])

    found = estimate_of(runs_of(tmp_path))

    assert (found.mean, found.standard_error, found.interval) == (1.0, None, None)
    assert found.nan == ("lr0.1-s1",)
    assert found.unfinished == ("dead",)
    assert found.missing == ("silent",)
    with_all = estimate_of(runs_of(tmp_path), with_unfinished=True)
    assert with_all.mean == 5.0 and with_all.unfinished == ("dead",)
    best = estimate_of(runs_of(tmp_path), at="best")
    assert best.mean == 3.0 and best.nan == () and best.at_times_nan == ("lr0.1-s1",)


def test_nothing_has_no_mean(tmp_path):
    write(tmp_path / "run", config(), losses(None))

    found = estimate_of(runs_of(tmp_path))

    assert (found.mean, found.values, found.nan) == (None, {}, ("run",))


@pytest.mark.parametrize(("mode", "expected"), [("min", [0, 2, 1]), ("max", [2, 0, 1])])
def test_a_group_that_diverged_at_times_ranks_behind_the_others(mode, expected):
    def made(mean, nan=()):
        return groups.Estimate({}, nan, (), (), (), mean, None, None)

    estimates = [made(1.0), made(0.5 if mode == "min" else 9.0, nan=("a",)), made(2.0), made(None)]

    assert groups.ranking(estimates, mode) == expected


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("eval/loss", "min"),
        ("train/loss", "min"),
        ("eval/bits_per_byte", "min"),
        ("eval/perplexity", "min"),
        ("eval/mse", "min"),
        ("eval/accuracy", "max"),
        ("eval/f1_micro", "max"),
        ("eval/f1/PER", "max"),
        ("eval/HasAns_exact_match", "max"),
        ("train/tokens_per_second", "max"),
        ("train/learning_rate", None),
        ("eval/mine", None),
    ],
)
def test_directions(metric, mode):
    assert groups.mode_of(metric, None) == mode
    assert groups.mode_of(metric, "max") == "max"
    if mode is None:
        with pytest.raises(UserError, match="say --mode=min"):
            groups.needed_mode(metric, None)


def test_unknown_names_are_answered_with_near_ones(tmp_path):
    write(tmp_path / "run", config(), losses(1.0))
    runs = runs_of(tmp_path)

    with pytest.raises(UserError, match=r"eval/los: .* mean eval/loss\? there are eval/loss$"):
        groups.check_metric("eval/los", runs)
    with pytest.raises(UserError, match=r"peak_rl is no key .* optimizer.peak_lr"):
        groups.check_key("optimizer.peak_rl", runs)


@pytest.mark.parametrize(
    ("value", "text"),
    [("adamw", "adamw"), ("", '""'), ("a\nb", r'"a\nb"'), (1e-05, "1e-05"), (None, "null")],
)
def test_values_stay_on_one_line(value, text):
    assert groups.shown(value) == text
