"""Options together: few cases hold every pair, the first runs here, and the page is true."""

import pathlib

import pytest

from benchmarks import check_options, options

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "options.md"
FIRST = "case-0"  # With pmap; `benchmarks.check_options` runs them all.
NEEDS_A_RUN = {"then", "init_from"}  # What is refused of these is refused behind a training.


@pytest.fixture(scope="module")
def cases():
    found = options.covering(options.all_pairs())
    return {f"case-{i}": case for i, case in enumerate(found)}


@pytest.fixture(scope="module")
def refused():
    cases = enumerate(options.refused_cases().items())
    return {
        f"refused-{i}": (pair, case)
        for i, (pair, case) in cases
        if not NEEDS_A_RUN & {name for name, _ in pair}
    }


@pytest.fixture(scope="module")
def found(cases, refused, tmp_path_factory):
    """What came of the first case on four devices and on one, and of what is refused."""
    folder = tmp_path_factory.mktemp("options")
    check_options.start(folder, 4, [FIRST, *refused])
    check_options.start(folder, 1, [FIRST])
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


def test_a_run_with_pmap_is_that_of_one_device(cases, found):
    case = cases[FIRST]
    assert (case["mesh"], case["devices"]) == ("pmap", "4")

    assert check_options.wrong(FIRST, case, found[FIRST]) == []
    assert found[FIRST].keys() == {1, 4} and len(found[FIRST][4]["numbers"]) > 8


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
    head = check_options.page(len(cases), len(options.all_pairs()), others).partition("##")[0]
    assert text.startswith(head)
