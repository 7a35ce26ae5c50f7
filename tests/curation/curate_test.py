"""The experiment: its commands, what it prints, and what it refuses before it writes."""

import json
import os

import pytest
from backports import zstd

from configs import curate as recipe
from experiments import curate
from lm.curation import ledger, records, summary
from lm.errors import UserError

TEXT = "Nobody on the ferry spoke of the flood, mail {}@example.org for more. "


@pytest.fixture
def config(tmp_path):
    texts = [f"{i} {TEXT.format(f'bob{i}')} {'word' * i} " * 2 for i in range(8)]
    lines = [json.dumps({"text": text}) for text in [*texts, texts[0], texts[0]]]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "[]"]))
    config = recipe.get_config("inputs=a")
    config.inputs.a.path = str(tmp_path / "a.jsonl")
    config.engine.update(num_workers=1, num_shards=2)
    config.output.validation_share = 0.3
    config.quality.thresholds = "none"
    return config


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))


def test_a_corpus_with_its_account(config, tmp_path, capsys):
    assert curate.run(config, tmp_path / "out") == 0

    said = capsys.readouterr().out
    assert "duplicates: equal_text" in said
    assert "--config.data.source=curated:" in said
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["masked"] == {"email": 20}
    assert report["waterfall"][-1]["stage"] == "decontaminate"
    assert sum(row["documents"] for row in report["written"]) == 8
    assert sum(row["copies"] for row in report["written"]) == 10
    (cluster,) = report["clusters"]
    assert cluster["copies"] == 3
    assert [one["similarity"] for one in cluster["examples"]] == [1.0, 1.0]
    card = (tmp_path / "out/card.md").read_text()
    assert "| a | auto | not stated | 11 | 8 |" in card
    assert "| read | not_an_object | 1 | 2 |" in card


def test_what_is_not_judged_is_said(config, tmp_path, capsys):
    (tmp_path / "mine.json").write_text('{"zh": {"num_units": [88, null]}}')
    config.quality.thresholds = str(tmp_path / "mine.json")

    curate.run(config, tmp_path / "out")

    said = "quality: not judged, as no thresholds are known of the language: 10 en\n"
    assert said in capsys.readouterr().out
    assert "without thresholds nothing is judged: 10 en." in (tmp_path / "out/card.md").read_text()
    page = (tmp_path / "out/report.html").read_text()
    assert 'no thresholds are known of the language: <data class="documents" value="10">10' in page
    written = json.loads((tmp_path / "out/thresholds.json").read_text())
    assert written == {"zh": {"num_units": [88, None]}}


def test_the_same_command_again_does_nothing_anew(config, tmp_path):
    curate.run(config, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/corpus").rglob("*")}
    config.engine.num_workers = 2

    curate.run(config, tmp_path / "out")

    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_licence_that_is_changed_makes_nothing_stale_but_the_card(config, tmp_path):
    curate.run(config, tmp_path / "out")
    made = lambda: {
        path: path.stat().st_mtime_ns
        for folder in ("out/corpus", "cache")
        for path in (tmp_path / folder).rglob("*")
        if path.is_file()
    }
    before = made()
    config.inputs.a.licence = "CC0-1.0"

    curate.run(config, tmp_path / "out")

    assert made() == before
    assert "| a | auto | CC0-1.0 | 11 | 8 |" in (tmp_path / "out/card.md").read_text()
    kept = json.loads((tmp_path / "out/config.json").read_text())
    assert kept["inputs"]["a"]["licence"] == "CC0-1.0"  # Of which the cards of models tell.
    config.inputs.a.field = "body"
    with pytest.raises(UserError, match=r"another config: inputs\.a\.field is 'text' there"):
        curate.run(config, tmp_path / "out")


def test_what_became_of_a_document_is_shown(config, tmp_path, capsys):
    curate.run(config, tmp_path / "out")
    with zstd.open(tmp_path / "out/provenance.jsonl.zst") as file:
        told = [json.loads(line) for line in file]
    dropped = next(one for one in told if one.get("reason") == "equal_text")
    capsys.readouterr()
    config.show_document = dropped["place"]

    curate.run(config, tmp_path / "out")

    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert "bob0" in said["read"]
    assert said["repair"] == "as it was"
    assert json.loads(said["private"])["masked"] == {"email": 2}
    assert json.loads(said["without_equal"])["of"] == dropped["of"]
    config.show_document = "nowhere"
    with pytest.raises(UserError, match="no document has this id"):
        curate.run(config, tmp_path / "out")


def test_a_dry_run_tells_what_is_lost_and_leaves_nothing(config, tmp_path, capsys):
    curate.dry_run(config.to_dict())

    said = capsys.readouterr().out
    assert "read: not_an_object" in said
    assert "minutes of one process" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs.a.path": "/nowhere/*.txt"}, r"inputs\.a\.path='/nowhere/\*\.txt' matches no"),
        ({"inputs.a.kind": "jsonls"}, r"inputs\.a\.kind='jsonls' is unknown; choose auto"),
        ({"inputs.a.field": ""}, r"inputs\.a\.field is empty"),
        ({"inputs.a.kind": "python_stdlib"}, "means nothing to python_stdlib"),
        ({"inputs.a.kind": "hf"}, "must be NAME@SPLIT"),
        ({"inputs.a.kind": "hf", "inputs.a.path": "folder@"}, "must be NAME@SPLIT"),
        ({"inputs.a.kind": "curated"}, r"inputs\.a\.path='.*': there is no corpus"),
        ({"inputs.a.kind": "hf", "inputs.a.path": "/no@train"}, r"inputs\.a\.path='/no@train': "),
        ({"inputs.a.max_document_bytes": 0}, "must be at least 1"),
        ({"extract.max_seconds": 0.0}, "must be above 0"),
        ({"repair.encoding": False, "duplicates.threshold": 1.5}, r"duplicates\.threshold=1\.5"),
        ({"private.kinds": ("emails",)}, r"private\.kinds='emails' is unknown"),
        ({"language.keep": ("en", "cn")}, r"language\.keep='cn' is no language"),
        ({"quality.thresholds": "publishd"}, r"quality\.thresholds='publishd' is unknown"),
        ({"decontaminate.files": "/nowhere/*"}, r"decontaminate\.files='/nowhere/\*' matches no"),
        ({"engine.num_shards": 0}, r"engine\.num_shards=0 must be at least 1"),
        ({"output.validation_share": 1.0}, r"output\.validation_share=1\.0 must lie"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(change, message, config, tmp_path):
    config.update_from_flattened_dict(change)

    with pytest.raises(UserError, match=message):
        curate.run(config, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_names_may_stand_between_commas(config):
    config.language.keep = ("en, zh",)
    config.private.kinds = ("email,phone",)

    _, settings = curate._open(config.to_dict())

    assert settings.language == {"keep": ("en", "zh")}
    assert settings.private == {"kinds": ("email", "phone")}


def test_an_input_that_may_not_be_read_is_named_before_anything_is_written(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.R_OK)

    with pytest.raises(UserError, match=r"inputs\.a\.path: .* may not be read by this user"):
        curate.run(config, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_summaries_of_parts_add_up_in_any_order():
    lines = [
        records.encode(
            records.Record(
                f"{i:032x}",
                "ab"[i % 2],
                f"f:{i}",
                i,
                "quality" * (i % 3 == 0),
                "short" * (i % 3 == 0),
                "en",
                {"length": 1.01 * i},
                copies=1 + i % 5,
                text="" if i % 3 == 0 else f"text {i}",
            )
        )
        for i in range(60)
    ]
    whole = summary.summarize(lines)
    parts = [summary.summarize(lines[i::7]) for i in range(7)]

    assert sum(parts[::-1], start=summary.nothing()) == whole
    assert sum(parts[3:], start=sum(parts[:3], start=summary.nothing())) == whole
    assert ledger.rows(whole.ledger) == ledger.rows(ledger.count(lines))
    assert summary.report(whole, {}, ["quality"], {})["waterfall"][0]["documents"] == 40
