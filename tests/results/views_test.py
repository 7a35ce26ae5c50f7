import pytest

from lm.errors import UserError
from lm.results import views
from lm.results.reading import read
from tests.run_folders import config, losses, write, write_sweep

# The first is told apart from the second, and the second from nothing.
SWEEP = {
    **{(0.1, 0): 1.0, (0.1, 1): 1.1, (0.1, 2): 1.2},
    **{(0.3, 0): 2.0, (0.3, 1): 2.4, (0.3, 2): 2.2},
    **{(0.5, 0): 2.1, (0.5, 1): 2.3, (0.5, 2): None},
}


def choice(*metrics, at="last", mode=None, over=("seed",), with_unfinished=False):
    return views.Choice(metrics or ("eval/loss",), at, mode, over, with_unfinished)


def runs_of(root, metrics=("eval/loss",)):
    return read(root, metrics).runs


def columns(table):
    cells = zip(*table.rows, strict=True)
    return {name: list(column) for name, column in zip(table.columns, cells, strict=True)}


def test_results_hold_what_differs_and_the_best_come_first(tmp_path):
    runs = runs_of(write_sweep(tmp_path, SWEEP))

    table, data = views.results(runs, choice())

    shown = columns(table)
    assert [*shown] == [
        *("optimizer.peak_lr", "runs", "eval/loss", "± s.e.", "95% interval", "note")
    ]
    assert shown["optimizer.peak_lr"] == ["0.1", "0.3", "0.5"]
    assert shown["eval/loss"] == ["1.1000", "2.2000", "2.2000"]
    assert shown["± s.e."] == ["±0.058", "±0.12", "±0.1"]
    assert shown["95% interval"][0] == "1.0000 to 1.2000"
    assert shown["note"] == ["", "", "1 NaN: lr0.5-s2"]
    assert [row["settings"] for row in data] == [{"optimizer.peak_lr": x} for x in (0.1, 0.3, 0.5)]
    (last,) = [data[2]["metrics"]["eval/loss"]]
    assert last["values"] == {"lr0.5-s0": 2.1, "lr0.5-s1": 2.3} and last["nan"] == ("lr0.5-s2",)
    largest_first, _ = views.results(runs, choice(mode="max"))
    assert columns(largest_first)["optimizer.peak_lr"] == ["0.3", "0.1", "0.5"]


def test_unfinished_runs_are_marked_and_not_averaged(tmp_path):
    write_sweep(tmp_path, {(0.1, 0): 1.0, (0.1, 1): 2.0})
    write(tmp_path / "dead", config(2, 0.1), losses(9.0), done=False)

    without, _ = views.results(runs_of(tmp_path), choice())
    with_it, _ = views.results(runs_of(tmp_path), choice(with_unfinished=True))

    assert columns(without)["eval/loss"] == ["1.5000"]
    assert columns(without)["note"] == ["1 not done: dead"]
    assert columns(with_it)["eval/loss"] == ["4.0000"]
    assert columns(with_it)["note"] == ["1 not done, yet counted: dead"]
    assert "unfinished ones too" in with_it.title


def test_runs_without_seeds_are_named_and_have_no_error(tmp_path):
    write_sweep(tmp_path, {(0.1, 0): 1.0, (0.3, 0): 0.5})
    write(tmp_path / "other", {"seed": 0, "train": {}}, losses(2.0))

    table, _ = views.results(runs_of(tmp_path), choice())

    assert columns(table) == {
        "optimizer.peak_lr": ["0.3", "0.1", "(no such key)"],
        "train.num_steps": ["9", "9", "(no such key)"],
        "train": ["(no such key)", "(no such key)", "{}"],
        "runs": ["lr0.3-s0", "lr0.1-s0", "other"],
        "eval/loss": ["0.50000", "1.0000", "2.0000"],
        "note": ["", "", ""],
    }


def test_runs_that_have_a_metric_show_it_also_where_others_choose_their_best_by_it(tmp_path):
    write(tmp_path / "plain", config(lr=0.1), losses(3.0, name="eval/perplexity"))
    chooses = dict(checkpoint={"best_metric": "eval/perplexity"}, task={"kind": "chat"})
    write(tmp_path / "task", config(lr=0.1, **chooses), losses(2.0, name="eval/perplexity"))

    shown = columns(views.results(runs_of(tmp_path), choice("eval/perplexity"))[0])

    assert dict(zip(shown["runs"], shown["eval/perplexity"], strict=True)) == {
        "plain": "3.0000",
        "task": "2.0000",
    }


def test_the_best_and_the_second_are_told_apart_whatever_else_is_there(tmp_path):
    task = dict.fromkeys("abcd", 1)
    for name, lr, more in (("x", 0.1, {}), ("y", 0.3, {}), ("task", 0.1, task)):
        others = dict.fromkeys("efgh", more == {})
        write(tmp_path / name, others | config(lr=lr) | more, losses(1.0 + 9 * lr + len(more)))

    lines = views.best(runs_of(tmp_path), choice())[0].splitlines()

    assert any(line.startswith("best:   optimizer.peak_lr=0.1 ") for line in lines)
    assert any(line.startswith("second: optimizer.peak_lr=0.3 ") for line in lines)


def test_status_has_a_row_a_run(tmp_path):
    write(tmp_path / "a", config(), [{"step": 4, "train/tokens_per_second": 12345.6}])
    write(tmp_path / "b", config(), losses(2.0, None), done=False)

    table, data = views.status(runs_of(tmp_path), choice())

    shown = columns(table)
    assert table.title == "2 runs: 1 done, 1 dead"
    assert shown["run"] == ["a", "b"]
    assert shown["state"] == ["done", "dead at 2"]
    assert shown["step"] == ["9/9", "2/9"]
    assert shown["tokens/s"] == ["12,346", ""]
    assert shown["eval/loss"] == ["", "NaN"]
    assert all(text.endswith(" s ago") for text in shown["last line"])
    assert [row["metrics"] for row in data] == [{"eval/loss": None}] * 2
    assert data[1]["state"] == "dead" and data[1]["num_steps"] == 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s ago"), (119, "119 s ago"), (121, "2 min ago"), (7300, "2 h ago"), (2e5, "2 d ago")],
)
def test_times_have_one_unit(seconds, text):
    assert views._ago(seconds) == text


def test_the_best_stands_beside_the_second(tmp_path):
    runs = runs_of(write_sweep(tmp_path, SWEEP))

    text, data = views.best(runs, choice())

    assert data["best"]["settings"] == {"optimizer.peak_lr": 0.1}
    assert data["second"]["settings"] == {"optimizer.peak_lr": 0.3}
    assert not data["second_is_within_interval_of_best"] and not data["intervals_overlap"]
    assert "outside the 95% interval of the best, and the two intervals do not overlap" in text
    assert "less is better" in text and "3 runs: lr0.1-s0 1.0000, lr0.1-s1 1.1000" in text
    text, data = views.best(runs, choice(mode="max"))
    assert data["best"]["settings"] == {"optimizer.peak_lr": 0.3} and "more is better" in text
    text, data = views.best([run for run in runs if "0.1" not in run.name], choice())
    assert data["second_is_within_interval_of_best"] and data["intervals_overlap"]
    assert text.endswith("more seeds may change the order")


def test_what_cannot_be_told_is_said(tmp_path):
    write_sweep(tmp_path, {(0.1, 0): 1.0, (0.3, 0): 0.5})
    runs = runs_of(tmp_path)

    text, data = views.best(runs, choice())
    assert data["second_is_within_interval_of_best"] is None and "more seeds would tell" in text
    text, _ = views.best(runs[:1], choice())
    assert text.endswith("there is no second config to compare with")
    write(tmp_path / "dead", config(2), losses(9.0), done=False)
    text, data = views.best(runs_of(tmp_path / "dead"), choice())
    assert data["best"] is None and "--unfinished" in text
    with pytest.raises(UserError, match="say --mode=min"):
        views.best(runs, choice("eval/mine"))


def test_two_runs_side_by_side(tmp_path):
    records = [*losses(3.0, 2.0), {"step": 2, "train/loss": 1.0}]
    a = runs_of(write(tmp_path / "a", config(0, 0.1), records), None)[0]
    b = runs_of(write(tmp_path / "b", config(1, 0.1, x="new"), losses(2.5), done=False), None)[0]

    (configs, values), data = views.compare(a, b)

    assert configs.rows == [["seed", "0", "1"], ["x", "(no such key)", "new"]]
    assert values.rows == [
        ["state", "done", "dead at 1", ""],
        ["step", "9", "1", ""],
        ["eval/loss", "2.0000", "2.5000", "0.50000"],
        ["train/loss", "1.0000", "", ""],
    ]
    assert data["config"] == {"seed": [0, 1], "x": [None, "new"]}
    assert data["metrics"]["train/loss"] == [1.0, None]
