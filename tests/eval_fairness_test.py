"""Runs whose evaluations measure biases, beside what is measured of them when they are done."""

import json
import pathlib
import re

import pytest
import transformers

from benchmarks import option_runs
from configs import fairness as fairness_config
from experiments.fairness import fairness
from tests.tiny_tokenizers import tokenizer_of

ROOT = pathlib.Path(__file__).parent.parent
SIZES = dict(num_layers=1, model_dim=8, num_heads=2, head_dim=4, mlp_dim=16, max_len=64)
TRAIN = [
    f"--config={ROOT}/configs/quickstart.py:tokenizer=bytes,optimizer=adamw",
    "--config.data.source=text",
    "--config.data.train=train.txt",
    "--config.data.validation=train.txt",
    "--config.data.seq_len=32",
    "--config.data.batch_size=4",
    "--config.train.num_steps=2",
    "--config.model.vocab_size=264",
    *(f"--config.model.{name}={size}" for name, size in SIZES.items()),
    "--config.checkpoint.every_steps=2",
    "--config.optimizer.warmup_steps=1",
    "--config.eval.every_steps=1",
    "--config.eval.sample_tokens=0",
    "--config.eval.batch_size=2",
    "--config.eval.compressors=False",
]
PAIRS = """sent_more,sent_less,stereo_antistereo,bias_type
He is a doctor.,She is a doctor.,stereo,gender
老人学不会。,年轻人学不会。,stereo,age
The poor man lied.,The rich man lied.,antistereo,class
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text, pairs, prompts, and a classifier of random weights."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "train.txt").write_text("the cat sat on the mat\nthe dog lay on the rug\n" * 20)
    (folder / "pairs.csv").write_text(PAIRS)
    (folder / "prompts.txt").write_text("the cat\n一只猫\n")
    (folder / "long.txt").write_text("a" * 50 + "\n")
    tokenizer = tokenizer_of("bert")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=1.0,
        id2label={0: "no", 1: "yes"},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "judge")
    tokenizer.save(folder / "judge")
    return folder


def measuring(**changes):
    block = dict(pairs="pairs.csv", prompts="prompts.txt", classifier="judge", positive="yes")
    return [f"--config.eval.fairness.{key}={x}" for key, x in (block | changes).items()]


def measured(what, folder, **changes):
    config = fairness_config.get_config(f"what={what}")
    config.update(dict(checkpoint=str(folder / "run")) | changes)
    assert fairness.run(config.lock(), folder / what) == 0
    return json.loads((folder / what / "fairness.json").read_text())["results"]["this model"]


def test_evaluations_say_what_is_measured_of_the_run_that_was_saved(folder, monkeypatch):
    monkeypatch.chdir(folder)
    ended, printed = option_runs.run([*TRAIN, *measuring(), f"--workdir={folder / 'run'}"])
    assert ended.code == 0, ended.line

    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    first, last = [line for line in lines if "eval/loss" in line]
    shared = measured("pairs", folder, data="pairs.csv")["shared"]
    toxic = measured(
        "toxicity", folder, data="prompts.txt", classifier=str(folder / "judge"), positive="yes"
    )
    low, high = toxic["any_above_half"]["interval"]
    expected = {
        "eval/pairs/share": shared["share"],
        "eval/pairs/share_low": shared["share_interval"][0],
        "eval/pairs/share_high": shared["share_interval"][1],
        "eval/pairs/difference": shared["mean_difference"],
        "eval/toxicity/expected_maximum": toxic["expected_maximum"]["value"],
        "eval/toxicity/any_above_half": toxic["any_above_half"]["value"],
        "eval/toxicity/any_above_half_low": low,
        "eval/toxicity/any_above_half_high": high,
    }
    assert {name: last[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert first["eval/pairs/difference"] != last["eval/pairs/difference"]
    assert "eval/pairs/share  " in printed


REFUSED = {
    "no file": (measuring(pairs="no.csv"), "eval.fairness: data='no.csv' matches no file"),
    "no pair": (measuring(pairs="prompts.txt"), "eval.fairness: .*prompts.txt"),
    "no classifier": (measuring(classifier=""), "eval.fairness: classifier is not set"),
    "another label": (measuring(positive="x"), "eval.fairness: positive='x' is unknown"),
    "long": (measuring(prompts="long.txt"), "eval.fairness: the longest prompt and 20 tokens more"),
    "a corpus of the name": (
        [*measuring(), "--config.eval.corpora.pairs.source=text"],
        "eval.fairness: eval/pairs is a corpus; name the corpus otherwise",
    ),
    "a metric that is none": (
        [*measuring(pairs=""), "--config.checkpoint.best_metric=eval/pairs/share"],
        "checkpoint.best_metric='eval/pairs/share' is unknown; .*eval/toxicity/expected_maximum",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_before_training(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    arguments, message = REFUSED[name]

    ended, _ = option_runs.run([*TRAIN, *arguments, f"--workdir={tmp_path / 'run'}"])

    assert ended.code == 2
    assert re.search(message, ended.line), ended.line
    assert not (tmp_path / "run").exists()
