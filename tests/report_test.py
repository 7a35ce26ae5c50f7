import json
import types

import jax
import pytest

from configs import bert, classify, gpt2, t5
from experiments import generate, predict, report
from experiments.wiring import pretraining
from lm.chat import chat_template
from lm.formats.fields import Record
from lm.generation.ending import Written
from lm.inference.writing import Prompt
from lm.models import factory
from lm.tasks.prediction import Predicted


@pytest.mark.parametrize(
    ("config", "changes", "line"),
    [
        (gpt2.get_config("debug"), {}, "bfloat16, attention by cudnn"),
        (gpt2.get_config("debug"), {"matmul": "fp8"}, "cudnn, products of layers in fp8"),
        (t5.get_config("debug"), {"dropout": 0.0}, "bfloat16, attention by cudnn"),
        (
            bert.get_config("debug"),
            {"dropout": 0.1},
            "bfloat16, attention by einsum (not cudnn: it has no dropout and model.dropout=0.1)",
        ),
        (
            gpt2.get_config("debug"),
            {"dtype": "float32", "attention": "einsum"},
            "float32, attention by einsum",
        ),
        (
            classify.get_config("debug"),
            {"dropout": 0.0},
            "bfloat16, attention by cudnn_lengths",
        ),
    ],
)
def test_a_run_on_a_gpu_says_which_kernel_it_takes_and_why_that_is_no_fast_one(
    config, changes, line, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(factory, "compute_capability", lambda: (9, 0))
    config.model.update(changes)

    rows = dict(causal=True, packed=False, sequence_parts=1)
    if config.experiment == "pretrain":
        rows = pretraining.rows_of(config.objective.kind, config.parallel.sequence)

    assert report.compute_line(config.model, **rows).endswith(line)


def test_json_lines_are_one_line_each_to_every_reader(tmp_path):
    text = "a\x85b\u2028c\u2029d"
    record = Record("x", {"id": text})
    written = Written(text, 1, "stop", None)
    generate._save(tmp_path / "generated.jsonl", [Prompt("x", text, {})], [[written]])
    task = types.SimpleNamespace(gold=lambda record: record.fields["id"])
    report.write_predictions(tmp_path / "predictions.jsonl", task, [record], [text])
    line = predict._line(
        Predicted(record, text, False), "raise", {"predicted": 0, "cut": 0, "bad": 0}
    )
    (tmp_path / "predicted.jsonl").write_bytes(line)

    for path in tmp_path.iterdir():
        [line] = path.read_text(encoding="utf-8").splitlines()
        assert text in json.loads(line).values(), path
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("names", "line"), [("ab", "0.1 on a, b"), ("", "0.1 on nothing")])
def test_a_list_of_nothing_is_not_begun(names, line):
    params = {name: jax.ShapeDtypeStruct((2, 2), "float32") for name in names}

    assert report._decay_line(0.1, params) == line


@pytest.mark.parametrize("flag", ["--extend", "--extend=true", "--workdir=a", "-workdir=a"])
def test_the_command_that_trains_on_starts_a_run_of_its_own(flag, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "6")
    made_by = ["launch.py", "--config=configs/bert.py", flag, "--config.train.num_steps=9"]

    report.end(
        tmp_path,
        {"eval/loss": 1.0},
        made_by,
        model_name="bert",
        compressors=None,
        no_bits_per_byte="",
    )

    _, said = capsys.readouterr().out.split("train it on")
    assert said.split()[0] == "JAX_NUM_CPU_DEVICES=6"
    assert flag not in said and "num_steps=9" in said and f"--workdir={tmp_path}-more" in said


def test_answers_that_begin_inside_of_a_token_are_warned_of_where_they_are_many():
    assert report.border_warnings({chat_template.SPLIT: 4}, num_examples=10) == []
    (line,) = report.border_warnings({chat_template.SPLIT: 5}, num_examples=10)
    assert "5 answers with a token across their border" in line and "line break" in line
