"""Options together: few cases hold every pair, some run here with pmap, and the page is true."""

import json
import pathlib
import types

import pytest

from benchmarks import check_options, options

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "options.md"
NEEDS_A_RUN = {"then", "init_from"}  # What is refused of these is refused behind a training.
PMAP = {"mesh": "pmap", "devices": "4"}
PLAIN = {"init_from": "none", "seeds": "1"}  # Others take more than one training.
ONLY = {  # Of options whose other values do with pmap what these do.
    "work": ("causal", "whole words", "ul2", "tags by a CRF", "seq2seq by beams"),
    "adapters": ("lora",),
    "then": ("resume", "evaluate", "generate"),
}
BESIDE_ONE_DEVICE = "whole words"  # The case of this runs there, too.


@pytest.fixture(scope="module")
def cases():
    found = options.covering(options.all_pairs())
    return {f"case-{i}": case for i, case in enumerate(found)}


@pytest.fixture(scope="module")
def few():
    """Cases with pmap that hold each value of each other option, but for `PLAIN` and `ONLY`."""
    return {f"few-{i}": case for i, case in enumerate(options.few(ONLY, PMAP | PLAIN))}


@pytest.fixture(scope="module")
def refused():
    cases = enumerate(options.refused_cases().items())
    return {
        f"refused-{i}": (pair, case)
        for i, (pair, case) in cases
        if not NEEDS_A_RUN & {name for name, _ in pair}
    }


@pytest.fixture(scope="module")
def beside(few):
    """Of these cases that which runs on one device, too."""
    return {name: case for name, case in few.items() if case["work"] == BESIDE_ONE_DEVICE}


@pytest.fixture(scope="module")
def found(few, beside, refused, tmp_path_factory):
    """What came of these cases on four devices, one on one, and of what is refused."""
    folder = tmp_path_factory.mktemp("options")
    due = few | {name: case for name, (_, case) in refused.items()}
    check_options.start(folder, 4, due)
    check_options.start(folder, 1, beside)
    return check_options.results(folder)


def test_the_cases_hold_every_pair_of_values_and_none_that_is_refused(cases):
    held = {pair for case in cases.values() for pair in options.pairs_of(case)}

    assert held == set(options.all_pairs())
    values = {item for case in cases.values() for item in case.items()}
    assert values == {(name, v) for name, values in options.OPTIONS.items() for v in values}
    apart = {pair for rule in options.REFUSED for pair in options.pairs_refused(rule)}
    assert not held & apart
    with_pmap = [case for case in cases.values() if case["mesh"] == "pmap"]
    assert {pair for case in with_pmap for pair in options.pairs_of(case)} >= {
        pair for pair in held if ("mesh", "pmap") in pair
    }


def test_few_cases_hold_each_value_that_goes_with_pmap(few):
    held = {item for case in few.values() for item in case.items()}
    values = {(name, value) for name, values in options.OPTIONS.items() for value in values}

    assert {name for name, _ in values - held} == {*PMAP, *PLAIN, *ONLY}
    assert held >= {(name, value) for name, values in ONLY.items() for value in values}
    assert len(few) < 6 and all(case.items() >= PMAP.items() for case in few.values())


def test_runs_with_pmap_end_well_and_are_those_of_one_device(few, beside, found):
    problems = [
        p for name, case in few.items() for p in check_options.wrong(name, case, found[name])
    ]

    assert problems == []
    assert {name for name in few if 1 in found[name]} == beside.keys() and len(beside) == 1
    assert all(len(found[name][4]["numbers"]) > 8 for name in few)


def test_what_is_refused_is_so_in_one_line_and_nothing_is_written(refused, found):
    problems = [check_options.not_refused(name, found[name]) for name in refused]

    assert [problem for problem in problems if problem] == [] and len(problems) > 100


def test_the_page_says_what_goes_together_and_by_which_line_the_rest_is_refused(
    cases, refused, found
):
    text = PAGE.read_text()
    lines = {pair: check_options.line_of(found[name]) for name, (pair, _) in refused.items()}
    for rule in options.REFUSED:
        if not NEEDS_A_RUN & {rule[0], rule[2]}:
            assert check_options.refused_row(rule, lines) in text.splitlines()
    others = dict.fromkeys(options.refused_cases(), "a line")
    page = check_options.page(len(cases), len(options.all_pairs()), others, "It rests on a run.")
    assert text.startswith(page.partition("##")[0])


def test_a_case_that_ends_its_process_loses_no_other(tmp_path, monkeypatch):
    plain = options.completed({})
    due = {name: plain for name in ("good", "fatal", "last")}
    calls = []

    def run(command, **_):
        left = json.loads((tmp_path / "due-4.json").read_text())
        calls.append(list(left))
        for name, case in left.items():
            if name == "fatal":
                return types.SimpleNamespace(returncode=-6)
            one = {"ended": [{"code": 0, "line": ""}], "numbers": {"loss": 1.0}, "written": True}
            check_options.note(tmp_path, name, 4, case, one)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(check_options.subprocess, "run", run)
    check_options.start(tmp_path, 4, due)
    check_options.start(tmp_path, 4, due | {"good": plain | {"ema": "0.9"}})  # Another case.

    assert calls == [["good", "fatal", "last"], ["last"], ["good"]]
    found = check_options.results(tmp_path)
    codes = {name: found[name][4]["ended"][0]["code"] for name in due}
    assert codes == {"good": 0, "fatal": -6, "last": 0}
