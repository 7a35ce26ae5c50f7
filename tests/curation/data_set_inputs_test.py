"""Data sets by name are inputs: each of their records is counted, and so are their bytes."""

import json

import datasets
import pytest

from configs import curate as recipe
from experiments import curate
from lm.corpus.sources import make_source
from lm.curation import ledger
from lm.errors import UserError
from tests import tfds_texts

LINE = "Nobody on the ferry of {} spoke of the flood."
TEXTS = [*(LINE.format(year) for year in range(1801, 1805)), LINE.format(1801), " ", "x" * 1000]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def account(home, kind, path, field="text"):
    """Curates one input; gives what became of it, as {reason: (documents, bytes)}."""
    config = recipe.get_config("inputs=a")
    config.inputs.a.update(kind=kind, path=str(path), field=field, max_document_bytes=900)
    config.engine.update(num_workers=1, num_shards=2)
    config.output.validation_share = 0.5
    config.quality.thresholds = "none"
    curate.run(config, home / f"out-{kind}")
    report = json.loads((home / f"out-{kind}/report.json").read_text())
    counted = ledger.by(ledger.of_rows(report["ledger"]), ("reason",))
    return {reason: tuple(count) for (reason,), count in counted.items()}


EXPECTED = {
    "": (4, 4 * len(TEXTS[0])),
    "equal_text": (1, len(TEXTS[0])),
    "empty": (1, 1),
    "too_long": (1, 1000),
}


def hugging_face(folder, form):
    datasets.disable_progress_bars()
    records = [{"text": text, "n": 0} for text in [*TEXTS, None]]
    data_set = datasets.Dataset.from_list(records)
    if form == "saved":
        data_set.save_to_disk(folder)
    else:
        folder.mkdir()
        data_set.to_parquet(folder / "train.parquet")


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_folder_of_hugging_face(form, home, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "hf")
    hugging_face(home / "set", form)

    assert account(home, "hf", f"{home / 'set'}@train") == EXPECTED | {"text_is_null": (1, 0)}


def test_a_data_set_of_tfds(home, monkeypatch):
    tfds_texts.register(monkeypatch, "SomeFerries", home, [*TEXTS, b"\xffab"])

    assert account(home, "tfds", "some_ferries@train") == EXPECTED | {"not_utf8": (1, 3)}


def test_a_corpus_is_curated_again(home, capsys):
    (home / "a.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    assert account(home, "auto", home / "a.json") == EXPECTED

    assert account(home, "curated", home / "out-auto") == {"": EXPECTED[""]}

    capsys.readouterr()
    (home / "out-auto/corpus/corpus.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not as it was written; run configs/curate\.py again"):
        account(home, "curated", home / "out-auto")


def test_a_corpus_of_nothing_is_not_recommended(home, capsys):
    (home / "a.json").write_text(json.dumps([{"text": text} for text in TEXTS]))

    assert account(home, "json", home / "a.json", "body") == {"no_such_field": (7, 0)}

    said = capsys.readouterr().out
    assert "inputs.a.field names no field of" in said
    assert "]; there are 'text'\n" in said
    assert "nothing is kept, so that there is nothing to train on" in said
    assert "train on it" not in said


def test_columns_that_nobody_asked_for_are_not_decoded(home):
    records = {"text": ["a", "b"], "picture": [{"path": None, "bytes": b"no picture"}] * 2}
    features = datasets.Features(text=datasets.Value("string"), picture=datasets.Image())
    datasets.Dataset.from_dict(records, features).save_to_disk(home / "pictures")

    source = make_source(f"hf:{home}/pictures", split="train", spec="train", field="text")

    assert [document.text for document in source.documents()] == ["a", "b"]


def test_a_data_set_that_cannot_be_made_is_one_line(home, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "hf")
    for name, text, reason in (
        ("script/script.py", "import datasets\n", "scripts are no longer supported"),
        ("broken/train.jsonl", '{"text": ', "JSON parse error"),
    ):
        path = home / name
        path.parent.mkdir()
        path.write_text(text)
        with pytest.raises(UserError, match=rf"{path.parent}@train': .*{reason}"):
            account(home, "hf", f"{path.parent}@train")
