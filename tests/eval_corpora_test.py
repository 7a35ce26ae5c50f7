"""Runs that are evaluated on several corpora, through launch.py."""

import json
import pathlib
import re

import pytest

from benchmarks import option_runs
from experiments import cli, dry_run, training
from experiments.wiring import eval_corpora
from lm.errors import UserError
from lm.train import evaluation

ROOT = pathlib.Path(__file__).parent.parent
TRAIN = [
    f"--config={ROOT}/configs/quickstart.py:tokenizer=bytes,optimizer=adamw",
    "--config.data.source=text",
    "--config.data.train=train.txt",
    "--config.data.validation=validation.txt",
    "--config.data.seq_len=32",
    "--config.data.batch_size=4",
    "--config.train.num_steps=4",
    "--config.model.num_layers=1",
    "--config.model.model_dim=8",
    "--config.model.num_heads=2",
    "--config.model.head_dim=4",
    "--config.model.mlp_dim=16",
    "--config.model.max_len=32",
    "--config.model.vocab_size=264",
    "--config.checkpoint.every_steps=2",
    "--config.optimizer.warmup_steps=1",
    "--config.eval.every_steps=2",
    "--config.eval.sample_tokens=0",
    "--config.eval.batch_size=2",
    "--config.eval.compressors=False",
]
CORPORA = [
    "--config.eval.corpora.zh.source=text",
    "--config.eval.corpora.zh.validation=zh.txt",
    "--config.eval.corpora.own.source=jsonl",
    "--config.eval.corpora.own.validation=validation.jsonl",
    "--config.eval.corpora.own.field=text",
]
TEXTS = {
    "train.txt": "the cat sat on the mat\nand the dog lay on the rug\n" * 20,
    "validation.txt": "the dog sat on the mat\n" * 3,
    "validation.jsonl": json.dumps({"text": "the dog sat on the mat\n" * 3}) + "\n",
    "zh.txt": "猫坐在垫子上，狗趴在地毯上。\n" * 4,
    "empty.txt": "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def launch(*arguments):
    ended, printed = option_runs.run(arguments)
    assert ended.code == 0, ended.line
    return printed


def evaluations(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: x for key, x in line.items() if key.startswith("eval/")}
        for line in lines
        if "eval/loss" in line
    ]


def test_each_corpus_has_its_metrics_and_the_others_stay_as_they_were(folder):
    plain, several = folder / "plain", folder / "several"
    launch(*TRAIN, f"--workdir={plain}")
    best = "--config.checkpoint.best_metric=eval/zh/bits_per_byte"
    printed = launch(*TRAIN, *CORPORA, best, f"--workdir={several}")

    found = evaluations(several)
    own = [{key: x for key, x in line.items() if key.count("/") == 1} for line in found]
    assert own == evaluations(plain)
    for line in found:
        assert line.keys() == own[0].keys() | {*evaluation.metrics_of(("zh", "own"))}
        for metric in ("loss", "bits_per_byte"):
            mean = (line[f"eval/zh/{metric}"] + line[f"eval/own/{metric}"]) / 2
            assert line[f"eval/macro/{metric}"] == mean
        # That of the run's own text has its very numbers.
        for metric in ("loss", "perplexity", "bits_per_byte"):
            assert line[f"eval/own/{metric}"] == line[f"eval/{metric}"] != line[f"eval/zh/{metric}"]
    again = launch(f"--config={ROOT}/configs/evaluate.py", f"--config.checkpoint={several}")
    for key, value in found[-1].items():
        assert float(again.split(f"{key} ")[1].split()[0]) == pytest.approx(value, rel=1e-5)
    assert "evaluated on zh: " in printed and "eval/macro/bits_per_byte " in printed


def test_a_dry_run_prepares_the_corpora(folder, capsys):
    dry_run.run(cli.resolve([*TRAIN, *CORPORA]))
    printed = capsys.readouterr().out
    assert "evaluated on zh: 174 tokens of 1 documents, 0.99 bytes a token" in printed
    assert "evaluated on own: 71 tokens of 1 documents" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    {
        "a name of the mean": (["macro.source=text"], "eval.corpora.macro: eval/macro is a metric"),
        "a metric's name": (["loss.source=text"], "eval.corpora.loss: eval/loss is a metric"),
        "no source": (["zh.validation=zh.txt"], "eval.corpora.zh.source is not set"),
        "no such file": (["zh.source=text", "zh.validation=no.txt"], "eval.corpora.zh: .*no.txt"),
        "empty": (["zh.source=text", "zh.validation=empty.txt"], "eval.corpora.zh: .*no text"),
        "unknown source": (["zh.source=txt", "zh.validation=zh.txt"], "eval.corpora.zh: .*'txt'"),
    }.values(),
)
def test_a_mistake_is_one_line_before_anything_is_written(arguments, says, folder):
    given = [f"--config.eval.corpora.{argument}" for argument in arguments]
    ended, _ = option_runs.run([*TRAIN, *given, f"--workdir={folder}/run"])
    assert ended.code == 2
    assert re.search(says, ended.line), ended.line
    assert not (folder / "run").exists()


def test_corpora_have_their_names_and_a_plain_mean():
    one = {"eval/loss": 1.0, "eval/perplexity": 2.7, "eval/bits_per_byte": 0.5}
    two = {"eval/loss": 3.0, "eval/perplexity": 20.1}
    own = {"eval/loss": 2.5, "eval/en/loss": 2.5, "eval/macro/loss": 2.5}
    own["eval/macro/bits_per_byte"] = 0.7  # Of sources, and not of what is added.
    assert evaluation.beside(own, {"a": one, "b": two}) == {
        "eval/loss": 2.5,
        "eval/en/loss": 2.5,
        "eval/a/loss": 1.0,
        "eval/a/perplexity": 2.7,
        "eval/a/bits_per_byte": 0.5,
        "eval/b/loss": 3.0,
        "eval/b/perplexity": 20.1,
        "eval/macro/loss": 2.0,
    }
    assert evaluation.beside(own, {}) == own


def test_a_command_adds_corpora_and_else_there_are_none():
    config = cli.resolve(TRAIN[:1])
    assert config.eval.corpora.to_dict() == {}
    config = cli.resolve([*TRAIN[:1], *CORPORA[:2], "--config.optimizer.name=lion"])
    block = {"source": "text", "validation": "zh.txt", "field": ""}
    assert config.eval.corpora.to_dict() == {"zh": block}
    assert config.optimizer.name == "lion"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("zh.train=zh.txt", "eval.corpora.zh.train: .* has the keys source, validation, field"),
        ("zh=zh.txt", "--config.eval.corpora.zh=zh.txt: "),
    ],
)
def test_other_keys_are_refused(argument, says):
    with pytest.raises(UserError, match=says):
        cli.resolve([TRAIN[0], f"--config.eval.corpora.{argument}"])


def test_the_best_metric_is_one_that_there_will_be():
    config = cli.resolve([*TRAIN, *CORPORA, "--config.checkpoint.best_metric=eval/ja/loss"])
    given = evaluation.metrics_of(config.eval.corpora)
    with pytest.raises(UserError, match=r"eval/ja/loss' is unknown; .*eval/zh/loss"):
        training.check(config, given, None)
    reasons = {"": "", "zh": "characters are lost", "own": ""}
    for best in ("eval/bits_per_byte", "eval/own/bits_per_byte", "eval/zh/loss", ""):
        eval_corpora.check_best_metric(best, reasons, ("zh", "own"))
    for best in ("eval/zh/bits_per_byte", "eval/macro/bits_per_byte"):
        with pytest.raises(UserError, match=f"{best} is not given here: characters .* take eval/"):
            eval_corpora.check_best_metric(best, reasons, ("zh", "own"))
    eval_corpora.check_best_metric("eval/macro/bits_per_byte", reasons, ["own"])
