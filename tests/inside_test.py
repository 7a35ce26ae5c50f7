"""The page on the inside of two models says what its data do, and its commands are configs."""

import copy
import json
import shlex

import pytest

from benchmarks.quality import inside_page
from experiments import cli

RESULTS = json.loads(inside_page.DATA.read_text())


def test_page_and_picture_are_those_of_the_data():
    page, picture = (x.read_bytes() for x in (inside_page.PAGE, inside_page.PICTURE))

    assert page.decode() == inside_page.text_of(RESULTS)
    assert inside_page.digest(RESULTS).encode() in picture


def test_a_head_that_copies_is_named_and_one_at_chance_is_not():
    results = copy.deepcopy(RESULTS)
    for score, said in ((0.5, "Head 1 of layer 2: "), (0.03, "None, after ")):
        results["induction"]["copying_NH"][-1] = [[0.01, 0.02]] * 2 + [[0.01, score], [0.0, 0.02]]
        assert f"\n{said}" in inside_page.text_of(results)


@pytest.mark.parametrize("name", inside_page.commands("runs/x"))
def test_its_commands_are_configs_that_keep_checkpoints(name):
    words = shlex.split(inside_page.commands("runs/x")[name])

    config = cli.resolve([word for word in words if word.startswith("--config")])

    assert config.checkpoint.keep_every == config.checkpoint.every_steps > 0
    assert config.train.num_steps == inside_page.LAST_STEP[name]
