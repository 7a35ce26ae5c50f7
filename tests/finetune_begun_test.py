"""What a fine-tuning run takes from the folder in which it was begun."""

import datetime
import json

import pytest

from configs import chat, classify
from experiments import finetune

TODAY = datetime.date.today().isoformat()


def begun(config, workdir, **stored):
    (workdir / "config.json").write_text(json.dumps(stored))
    return finetune._as_begun(config.task.to_dict(), workdir)


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        ((), {"kind": "classification", "labels": ["b", "a"]}, ("b", "a")),
        (("a", "b"), {"kind": "classification", "labels": ["b", "a"]}, ("a", "b")),
        ((), {"kind": "tagging", "labels": ["O"]}, ()),
        ((), {}, ()),
    ],
)
def test_labels_and_their_order_are_those_of_the_first_start(tmp_path, asked, stored, expected):
    config = classify.get_config()
    config.task.labels = asked

    assert begun(config, tmp_path, task=stored)["labels"] == expected


@pytest.mark.parametrize(
    ("stored", "day"),
    [
        ({"task": {"kind": "chat", "date": "2026-01-02"}}, "2026-01-02"),
        ({"task": {"kind": "classification"}}, TODAY),
        ({"experiment": "pretrain"}, TODAY),
    ],
)
def test_chats_have_the_day_of_the_first_start_of_this_run(tmp_path, stored, day):
    assert begun(chat.get_config(), tmp_path, **stored)["date"] == day


def test_what_is_to_be_extended_has_to_be_there_with_several_seeds_too(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(finetune, "_run", lambda c, folder, _, extend: asked.append(extend) or 75)
    config = classify.get_config()
    config.num_seeds = 2

    assert finetune.run(config, tmp_path, extend=True) == 75
    assert asked == [True]  # And so `workdir.check` refuses what is not there.
