"""The ledger of claims: what it makes of runs, and that each row's small variant runs."""

import json
import math
import shlex
import types

import numpy as np
import pytest

from benchmarks.quality import claim_measures, ledger
from benchmarks.quality.claim_measures import (
    crf,
    label_efficiency,
    lora,
    mup,
    optimizers,
    reaches,
    scaling,
)
from benchmarks.quality.claims import CLAIMS
from experiments import cli, finetune, pretrain
from lm.errors import UserError
from lm.results import scaling_law
from lm.results.reading import Series

GROKKED = {  # (step, training accuracy, validation accuracy)
    "held": [(100, 0.5, 0.1), (200, 1.0, 0.2), (1000, 1.0, 0.9), (1200, 1.0, 0.96)],
    "at once": [(100, 0.9, 0.9), (200, 1.0, 1.0)],
}


def write_run(folder, curve, done=True):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"num_steps": 1200}}))
    start = {"devices": "1 x cpu", "git_commit": "0123456789", "git_dirty": False}
    start["data_hash"] = ""
    (folder / "provenance.json").write_text(json.dumps([start]))
    lines = [{"step": 0, "run/num_steps": 1200}]
    for step, known, found in curve:
        lines.append({"step": step, "train/step_seconds": 3.0})
        lines.append({"step": step, "training_set/accuracy": known, "eval/accuracy": found})
    lines += [{"step": curve[-1][0], "run/done": 1}] * done
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


(GROKKING,) = [claim for claim in CLAIMS if claim.name == "grokking"]


def write_runs(root, curve, done=True):
    for run in ledger.planned(GROKKING.commands[-1]):
        write_run(root / "grokking" / run.name, GROKKED[curve], done)
    write_run(root / "grokking/of another sweep", GROKKED["at once"])


def row_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith("|") and f"(#{name})" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("curve", "text", "gap", "status"),
    [
        ("held", "6.0 (6.0 to 6.0, 3 seeds) times; steps 200 and 1200", "+1.0", "holds"),
        ("at once", "1.0 (1.0 to 1.0, 3 seeds) times; steps 200 and 200", "-4.0", "fails"),
    ],
)
def test_a_row_says_what_its_runs_say(tmp_path, curve, text, gap, status):
    write_runs(tmp_path, curve)

    rows = ledger.rows_of(tmp_path, {})

    hours = f"{GROKKED[curve][-1][0] * 3 * 3 / 3600:.2f}"
    cells = row_of(ledger.text_of(rows), "grokking")
    assert cells[3].startswith(text)
    assert cells[4:] == [gap, status, hours, "1 x cpu", "0123456"]
    assert row_of(ledger.text_of(rows), "crf")[5] == "not run"


def test_a_row_stands_without_its_runs_until_its_commands_change(tmp_path):
    write_runs(tmp_path, "held")
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
    write_runs(tmp_path, "held", done=False)

    with pytest.raises(UserError, match=r"3 of 3 runs are missing or not done, .* --sweep"):
        ledger.rows_of(tmp_path, {})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_full_commands_are_configs_and_sweeps(claim):
    launched = [x for x in claim.commands if x.startswith("python launch.py ")]
    assert launched[-1] == claim.commands[-1]
    for command in launched:
        of_config = [x for x in shlex.split(command) if x.startswith("--config")]
        assert cli.resolve(of_config).experiment in ("pretrain", "finetune")
        assert ledger.planned(command)  # Raises for an override that cannot be followed.
    assert f"--workdir=runs/{claim.name}" in launched[-1].split()


def test_a_run_without_a_sweep_must_have_the_config_of_its_command(tmp_path):
    (claim,) = [claim for claim in CLAIMS if claim.name == "gpt2_fineweb"]
    folder = tmp_path / claim.name
    write_run(folder, [(1200, 1.0, 1.0)])
    given = [x for x in shlex.split(claim.commands[-1]) if x.startswith("--config")]
    config = json.loads(cli.resolve(given).to_json())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1200, "eval/loss": 3.29}\n{"step": 1200, "run/done": 1}\n')

    (folder / "config.json").write_text(json.dumps(config))
    row = ledger.rows_of(tmp_path, {})[claim.name]
    (folder / "config.json").write_text(json.dumps(config | {"seed": 1}))
    with pytest.raises(UserError, match="made by another config: seed is 1 there"):
        ledger.rows_of(tmp_path, {})

    assert [row[name] for name in ("here", "gap", "status")] == ["3.290", "+0.010", "holds"]


def test_what_a_row_needs_is_named_where_a_run_lacks_it(tmp_path):
    write_runs(tmp_path, "held")
    run = tmp_path / "grokking" / ledger.planned(GROKKING.commands[-1])[0].name
    (run / "provenance.json").unlink()
    with pytest.raises(UserError, match=f"{run} has no provenance.json"):
        ledger.rows_of(tmp_path, {})
    (run / "metrics.jsonl").write_text('{"step": 1, "run/done": 1}\n')
    with pytest.raises(UserError, match=f"{run} never logged eval/accuracy"):
        ledger.rows_of(tmp_path, {})


def test_runs_of_a_claim_that_nothing_measures_are_refused(tmp_path):
    (tmp_path / "bert_glue").mkdir()
    with pytest.raises(UserError, match="bert_glue: nothing measures"):
        ledger.rows_of(tmp_path, {})


@pytest.mark.parametrize(
    ("sign", "value", "holds"),
    [
        (-1, 2.01, True),
        (-1, 2.03, False),
        (-1, 0.0, True),
        (1, 1.99, True),
        (1, 1.97, False),
        (1, 9.0, True),
    ],
)
def test_a_target_is_reached_where_it_is_missed_by_its_tolerance_at_most(sign, value, holds):
    measure = reaches("eval/x", 2.0, 0.02, sign)

    assert measure([make_run({}, eval__x=[5.0, value])]).holds == holds


@pytest.mark.parametrize("text", ["{", "[]", '{"grokking": {}}'])
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "ledger.json").write_text(text)

    with pytest.raises(UserError, match=r"ledger\.json"):
        ledger.known_rows(tmp_path / "ledger.json")


def test_a_folder_without_claims_changes_nothing(tmp_path, monkeypatch, capsys):
    for name in ("PAGE", "ROWS"):
        monkeypatch.setattr(ledger, name, tmp_path / name)

    assert ledger.main(["ledger", str(tmp_path)]) == 2

    assert "has the folder of no claim: grokking, " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
    config = cli.resolve(flags).unlock()
    config.tokenizer = {"kind": "bytes"}
    config.model.update(vocab_size=384, num_layers=1)  # Compiling is what takes the time.
    if config.experiment == "pretrain":
        config.data.update(corpus, source="text")
    elif not config.data.source:
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join(map(json.dumps, RECORDS[config.task.kind])))
        config.data.update(train=str(path), validation=str(path))
    run = {"pretrain": pretrain.run, "finetune": finetune.run}[config.experiment]

    assert run(config.lock(), tmp_path / "run") == 0
    logged = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"run/done"' in logged
    for claim in CLAIMS:  # What is measured of the full ones is there.
        assert claim.debug != flags or all(f'"{metric}"' in logged for metric in claim.metrics)


def make_run(config, **metrics):
    """A finished run with these values of metrics, each at steps 20, 40, ..."""
    series = {
        name.replace("__", "/"): Series(np.arange(1, len(of) + 1) * 20, np.array(of, float))
        for name, of in metrics.items()
    }
    return types.SimpleNamespace(name="run", config=config, series=series)


def of_optimizers(**losses):
    """Two seeds of each rule at one rate, and rates beside it that end as NaN."""
    return [
        make_run({"optimizer.name": rule, "optimizer.peak_lr": rate, "seed": seed}, eval__loss=of)
        for rule, by_seed in losses.items()
        for seed, curve in enumerate(by_seed)
        for rate, of in ((0.2, curve), *((x, [math.nan] * len(curve)) for x in (0.1, 0.4)))
    ]


def test_optimizers_are_compared_seed_by_seed_at_their_best_rates():
    adamw = [[4, 3, 2], [5, 4, 3]]

    same = optimizers(of_optimizers(adamw=adamw, muon=adamw, lion=adamw))
    faster = optimizers(of_optimizers(adamw=adamw, muon=[[2, 1, 1], [3, 1, 1]], lion=adamw))
    never = optimizers(of_optimizers(adamw=adamw, muon=[[4, 3, 2.5], [4, 1, 1]], lion=adamw))
    fast = of_optimizers(adamw=adamw, muon=[[2, 1, 1], [3, 1, 1]], lion=adamw)
    key = lambda run: (run.config["optimizer.name"], run.config["optimizer.peak_lr"])
    without = lambda *of: optimizers([run for run in fast if key(run) != of])

    assert (same.gap, same.holds) == ("+0.25", False)
    assert "muon 20 and 20 (rate 0.2)" in faster.text and faster.holds
    assert not never.holds and "muon never and " in never.text
    assert without("muon", 0.1).holds
    for rate in (0.1, 0.4):
        untuned = without("adamw", rate)
        assert "adamw 60 and 60 (rate 0.2, an end of those tried), lion" in untuned.text
        assert not untuned.holds


def of_scaling(loss):
    shape = lambda width: {
        "model.num_layers": 4,
        "model.model_dim": width,
        "model.mlp_dim": 4 * width,
    }
    return [
        make_run(
            shape(width), eval__loss=[loss(48 * width**2, tokens)], train__tokens=[float(tokens)]
        )
        for width in (16, 32, 48, 64, 96)
        for tokens in (200_000, 400_000, 800_000, 1_600_000)
    ]


def test_only_losses_that_fall_as_powers_fit_the_scaling_law(monkeypatch):
    monkeypatch.setattr(claim_measures, "NUM_RESAMPLES", 20)
    law = scaling_law.Law(A=20.0, B=300.0, E=1.5, alpha=0.3, beta=0.4)
    noise = np.random.default_rng(0)

    assert scaling(of_scaling(law.loss)).holds
    assert not scaling(of_scaling(lambda n, d: 3 + 0.06 * noise.normal())).holds


def of_transfer(best_by_kind):
    """Losses that are lowest at these rates (2 to the power) of the widths 64 and 256."""
    return [
        make_run(
            {
                "model.mup_model_dim": 64 * has_mup,
                "model.model_dim": width,
                "optimizer.peak_lr": 2.0**e,
                "seed": 0,
            },
            eval__loss=[3 + (e - best) ** 2],
        )
        for has_mup, bests in best_by_kind.items()
        for width, best in zip((64, 256), bests, strict=True)
        for e in range(-9, -4)
    ]


@pytest.mark.parametrize(
    ("with_mup", "without", "holds"),
    [
        ((-7, -7), (-6, -8), True),
        ((-6, -8), (-6, -8), False),
        ((-9, -9), (-6, -8), False),  # At an end of the rates: it may lie anywhere beyond.
    ],
)
def test_rates_transfer_where_their_minimum_is_seen_to_stay(with_mup, without, holds):
    assert mup(of_transfer({True: with_mup, False: without})).holds == holds


def test_pretraining_must_help_at_each_number_of_labels():
    runs = [
        make_run(
            {
                "data.num_examples": number,
                "init_from": f"runs/{encoder}",
                "optimizer.peak_lr": 1.0,
                "seed": seed,
            },
            eval__accuracy=[accuracy],
        )
        for number, encoder, accuracy in [
            (100, "encoder", 0.6),
            (100, "random_encoder", 0.5),
            (1000, "encoder", 0.7),
            (1000, "random_encoder", 0.72),
        ]
        for seed in range(2)
    ]

    assert label_efficiency(runs[:4]).holds
    assert not label_efficiency(runs).holds


@pytest.mark.parametrize(("accuracy", "holds"), [(0.79, True), (0.77, False)])
def test_adapters_of_rank_8_may_be_a_little_worse(accuracy, holds):
    runs = [
        make_run({"lora.rank": rank, "optimizer.peak_lr": 1.0}, eval__accuracy=[of])
        for rank, of in ((0, 0.8), (1, 0.5), (8, accuracy))
    ]

    assert lora(runs).holds == holds


@pytest.mark.parametrize(("f1", "holds"), [(0.83, True), (0.81, False)])
def test_a_crf_must_gain_as_much_as_the_paper_s(f1, holds):
    runs = [
        make_run({"task.crf": has_crf}, eval__f1_micro=[of])
        for has_crf, of in ((True, f1), (False, 0.8))
    ]

    assert crf(runs).holds == holds
