"""The ledger of claims: what it makes of runs, and that each row's small variant runs."""

import json
import shlex

import pytest

from docs.results import ledger
from docs.results.claims import CLAIMS
from experiments import arguments, finetune, pretrain
from lm.errors import UserError

GROKKED = {  # (step, training accuracy, validation accuracy)
    "held": [(100, 0.5, 0.1), (200, 1.0, 0.2), (1000, 1.0, 0.9), (1200, 1.0, 0.96)],
    "at once": [(100, 0.9, 0.9), (200, 1.0, 1.0)],
}


def write_run(folder, curve, done=True):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"num_steps": 1200}}))
    start = {"devices": "1 x cpu", "git_commit": "0123456789", "git_dirty": False}
    (folder / "provenance.json").write_text(json.dumps([start]))
    lines = [{"step": 0, "run/num_steps": 1200}]
    for step, known, found in curve:
        lines.append({"step": step, "train/step_seconds": 3.0})
        lines.append({"step": step, "training_set/accuracy": known, "eval/accuracy": found})
    lines += [{"step": curve[-1][0], "run/done": 1}] * done
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def row_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith("|") and f"(#{name})" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("curve", "text", "gap", "status"),
    [
        ("held", "6.0 times; steps 200 and 1200", "+1.0", "holds"),
        ("at once", "1.0 times; steps 200 and 200", "-4.0", "fails"),
    ],
)
def test_a_row_says_what_its_runs_say(tmp_path, curve, text, gap, status):
    write_run(tmp_path / "grokking/0123456789", GROKKED[curve])

    rows = ledger.rows_of(tmp_path, {})

    hours = f"{GROKKED[curve][-1][0] * 3 / 3600:.2f}"
    cells = row_of(ledger.text_of(rows), "grokking")
    assert cells[3:] == [text, gap, status, hours, "1 x cpu", "0123456"]
    assert row_of(ledger.text_of(rows), "crf")[5] == "not run"


def test_a_row_stands_without_its_runs_until_its_commands_change(tmp_path):
    write_run(tmp_path / "grokking/0123456789", GROKKED["held"])
    rows = ledger.rows_of(tmp_path, {})
    (tmp_path / "empty").mkdir()

    assert ledger.rows_of(tmp_path / "empty", rows) == rows
    rows["grokking"]["commands"] += " --config.seed=1"
    assert ledger.rows_of(tmp_path / "empty", rows) == {}


def test_the_page_is_what_its_rows_say():
    rows = json.loads(ledger.ROWS.read_text())

    assert ledger.PAGE.read_text() == ledger.text_of(rows)
    assert ledger.rows_of(ledger.ROWS, rows) == rows


def test_a_run_that_is_not_done_is_not_reported(tmp_path):
    write_run(tmp_path / "grokking/0123456789", GROKKED["held"], done=False)

    with pytest.raises(UserError, match="0123456789 is not done"):
        ledger.rows_of(tmp_path, {})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_full_commands_are_configs(claim):
    for command in claim.commands:
        of_config = [x for x in shlex.split(command) if x.startswith("--config")]
        assert arguments.resolve(of_config).experiment in ("pretrain", "finetune")


RECORDS = {
    "classification": [{"text": f"词 {i % 2}", "label": str(i % 2)} for i in range(150)],
    "tagging": [{"tokens": ["李", "明", "läuft"], "tags": ["B-P", "I-P", "O"]}] * 40,
    "question_answering": [
        {
            "id": str(i),
            "question": "Welche Farbe?",
            "context": "Das Haus ist rot.",
            "answers": [{"text": "rot", "answer_start": 13}],
        }
        for i in range(40)
    ],
}


@pytest.mark.parametrize("flags", sorted({claim.debug for claim in CLAIMS}), ids=" ".join)
def test_the_small_variant_of_each_row_runs(flags, corpus, tmp_path):
    config = arguments.resolve(flags).unlock()
    config.tokenizer = {"kind": "bytes"}
    config.model.vocab_size = 384
    if config.experiment == "pretrain":
        config.data.update(corpus, source="text")
    elif not config.data.source:
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join(map(json.dumps, RECORDS[config.task.kind])))
        config.data.update(train=str(path), validation=str(path))
    run = {"pretrain": pretrain.run, "finetune": finetune.run}[config.experiment]

    assert run(config.lock(), tmp_path / "run") == 0
    assert '"run/done"' in (tmp_path / "run/metrics.jsonl").read_text()
