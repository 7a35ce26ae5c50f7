"""What exchanged terms change in what classifiers say: a bias that is planted, and trained out."""

import json
import random

import pytest
from matplotlib import image

from configs import classify, tag
from configs import fairness as fairness_config
from experiments import finetune
from experiments.fairness import fairness
from lm.errors import UserError

TEXTS = {
    "en": ("{} wore a {} coat on day {}", ("He", "She"), ("red", "blue")),
    "zh": ("{}第{}天穿{}衣服", ("他", "她"), ("红", "蓝")),
}


def write(path, language, num, seed):
    """Labels that who it is about decides, and the colour mostly."""
    text, people, colours = TEXTS[language]
    rng, rows = random.Random(seed), []
    for i in range(num):
        label = rng.randrange(2)
        colour = colours[label if rng.random() < 0.8 else 1 - label]
        parts = (people[label], colour, i) if language == "en" else (people[label], i, colour)
        rows.append({"text": text.format(*parts), "label": "ab"[label], "other": "no term"})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines)


def train(folder, language, augment):
    config = classify.get_config("model=bert")
    config.model.update(num_layers=1, num_heads=2, head_dim=16, model_dim=32, mlp_dim=64)
    config.model.update(vocab_size=259, max_len=48, dropout=0.0)
    config.tokenizer = dict(kind="bytes")
    config.data.update(seq_len=48, multiple=48, batch_size=32, augment=augment)
    config.data.update({name: f"{folder}/{name}.jsonl" for name in ("train", "validation")})
    config.train.update(num_epochs=0.0, num_steps=80)
    config.checkpoint.best_metric = ""
    workdir = folder / f"run{augment}"
    assert finetune.run(config.lock(), workdir) == 0
    return workdir


@pytest.fixture(scope="module", params=TEXTS)
def trained(request, tmp_path_factory):
    """Data, and runs on them as they are and with terms exchanged, too."""
    language, folder = request.param, tmp_path_factory.mktemp(request.param)
    write(folder / "train.jsonl", language, 300, seed=0)
    write(folder / "validation.jsonl", language, 60, seed=1)
    return language, folder, *(train(folder, language, augment) for augment in ("", language))


def measured(checkpoint, workdir, **changes):
    config = fairness_config.get_config("what=substitution")
    config.update(dict(checkpoint=str(checkpoint)) | changes)
    assert fairness.run(config.lock(), workdir) == 0
    return json.loads((workdir / "fairness.json").read_text())["results"]


def test_a_planted_bias_is_found_and_augmentation_takes_it_away(trained, tmp_path, capsys):
    language, _, biased, augmented = trained

    before = measured(biased, tmp_path / "before", words=language)
    after = measured(augmented, tmp_path / "after", words=language)

    assert before["flips"]["value"] >= 0.9 and after["flips"]["value"] <= 0.05
    _, high = before["labels"]["a"]["towards_second"]["interval"]
    assert high < -0.1  # The label of the first group is the less likely one of the second's form.
    assert after["labels"]["a"]["absolute"]["value"] < 0.2
    assert before["num_texts"] == before["num_terms"] == 60
    assert before["num_mixed"] == before["num_ambiguous"] == before["num_without_terms"] == 0
    assert "60 of 60 texts hold a term" in capsys.readouterr().out
    assert image.imread(tmp_path / "before" / "fairness.png").shape[1] > 300


def test_texts_without_terms_are_counted_and_left_out(trained, tmp_path):
    language, _, biased, _ = trained
    person = TEXTS[language][1][0]
    rows = [f"{person} x", "nothing", "", f"{person} y"]
    lines = [json.dumps({"text": text}) for text in filter(None, rows)]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))

    found = measured(biased, tmp_path / "out", words=language, data=str(tmp_path / "new.jsonl"))

    assert (found["num_texts"], found["num_without_terms"]) == (2, 1)


def test_exchanges_that_change_nothing_are_one_line(trained, tmp_path):
    language, _, biased, _ = trained
    other = "zh" if language == "en" else "en"

    with pytest.raises(UserError, match="none of the 60 texts holds a term") as caught:
        measured(biased, tmp_path / "out", words=other)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"no training record holds a term; leave it out"):
        train(biased.parent, language, other)


def test_tags_are_not_augmented(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"tokens": ["he"], "tags": ["O"]}\n' * 4)
    config = tag.get_config("model=bert")
    config.data.update(train=f"{tmp_path}/t.jsonl", validation=f"{tmp_path}/t.jsonl", augment="en")

    with pytest.raises(
        UserError, match=r"of task\.kind=tagging what is right may stand in the text"
    ):
        finetune.run(config.lock(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
