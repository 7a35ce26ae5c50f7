"""The page on two languages: what it says of its data, and the commands that made them."""

import copy
import json
import re
import shlex

import pytest

from benchmarks.quality import two_languages, two_languages_page
from experiments import cli

RESULTS = json.loads(two_languages_page.DATA.read_text())


def test_page_and_picture_are_those_of_the_data():
    page, picture = (x.read_bytes() for x in (two_languages_page.PAGE, two_languages_page.PICTURE))

    assert page.decode() == two_languages_page.text_of(RESULTS)
    assert two_languages_page.digest(RESULTS).encode() in picture


def test_what_is_within_the_noise_is_said_to_be():
    results = copy.deepcopy(RESULTS)
    results["rows"] += [[row[0], 9, *row[2:]] for row in RESULTS["rows"]]
    for row in results["rows"]:
        if row[0] in two_languages_page.MIXTURES:  # Both weights alike, with seeds 0.01 apart.
            row[3:] = [2.0 + 0.01 * (row[1] == 9)] * 2
    lines = two_languages_page.text_of(results).splitlines()

    said = [line for line in lines if line.startswith("- With half of the rows Chinese")]

    assert len(said) == 2
    for line in said:
        assert "takes 0.00 " in line and "overlap" in line and "up to 0.010" in line


def test_each_run_has_a_command_and_its_numbers():
    commands = two_languages.commands("runs/two_languages", 0)

    assert list(commands.values()) == RESULTS["commands"]
    assert set(two_languages_page.RUNS) <= commands.keys()
    for name in two_languages_page.RUNS:
        of_run = [row for row in RESULTS["rows"] if row[0] == name]
        last = int(re.search("num_steps=([0-9]+)", f"{commands[name]} num_steps=300")[1])
        assert {row[1] for row in of_run} == set(two_languages.SEEDS)
        assert max(row[2] for row in of_run) == last


@pytest.mark.parametrize("name", two_languages.commands("runs/x", 0))
def test_its_commands_are_configs(name):
    words = shlex.split(two_languages.commands("runs/x", 0)[name])

    config = cli.resolve([word for word in words if word.startswith("--config")])

    assert config.experiment in ("curate", "pretrain", "extend", "evaluate")


def test_documents_are_whole_paragraphs():
    assert two_languages.documents("中国人民。\n好\n") == ["中国人民。\n好\n"]
    assert two_languages.documents(f"{'长' * 1000}\n好\n")[1:] == ["好\n"]
