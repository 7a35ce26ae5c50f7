"""Of the stage that judges how documents read: what it drops, keeps, counts, and calibrates."""

import json
import random

import pytest
from backports import zstd

from lm.curation import pipeline as pipeline_lib
from lm.curation.quality import SIDES, judge
from lm.curation.thresholds import THRESHOLDS
from lm.errors import UserError
from tests.curation.pipeline_test import BLOCKS, curate, documents
from tests.curation.quality_test import CHINESE, ENGLISH

FRENCH = "Le bateau quitte la petite île chaque matin et revient avant que la nuit ne tombe. "


def quality(thresholds="published", trusted="", max_drop=0.01):
    settings = dict(thresholds=str(thresholds), trusted=str(trusted), max_drop=max_drop)
    return BLOCKS | {"quality": settings | {"field": "text"}}


def prose(sentences, seed):
    """Some prose of its own for each seed, in paragraphs of two sentences."""
    order = random.Random(seed).sample(sentences, len(sentences))
    first = [f"{seed}. {order[0]}", *order[1:]]
    return "\n".join("".join(first[i : i + 2]).strip() for i in range(0, len(first), 2))


def write(path, texts):
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return {"a": ("jsonl", str(path))}


@pytest.fixture
def found(tmp_path):
    """Good and bad texts, with mail addresses, which are one and the same once they are masked."""
    mails = " ".join(f"bob{i}@host{i}.org" for i in range(8))
    texts = [
        *(prose(ENGLISH, i) for i in range(3)),
        *(prose(CHINESE, i) for i in range(3)),
        *(FRENCH * 3, FRENCH + "Les filets sèchent au soleil."),
        *(ENGLISH[0] * 2, CHINESE[0], prose(ENGLISH, 7) + " Lorem ipsum."),
        f"{ENGLISH[0]}{ENGLISH[3]}{ENGLISH[4]}\n{mails}.",
    ]
    return write(tmp_path / "a.jsonl", texts)


def told(folder):
    with zstd.open(folder / "provenance.jsonl.zst") as file:
        return [json.loads(line) for line in file]


def near_off(blocks):
    return blocks | {"duplicates": BLOCKS["duplicates"] | {"near": False}}


def test_bad_text_is_dropped_by_name_and_what_no_rule_is_for_is_kept_and_counted(found, tmp_path):
    report = curate(tmp_path / "out", found, blocks=near_off(quality()))

    fates = {(row["language"], row["stage"], row["reason"]) for row in report["ledger"]}
    assert fates == {
        ("en", "", ""),
        ("zh", "", ""),
        ("fr", "", ""),
        ("en", "quality", "num_units_low"),
        ("zh", "quality", "num_units_low"),
        ("en", "quality", "lorem_ipsum_high"),
        ("en", "quality", "top_2_grams_high"),
    }
    assert report["not_judged"] == {"fr": 2}
    assert report["thresholds"]["zh"] == {k: list(v) for k, v in THRESHOLDS["zh"].items()}
    assert len(documents(tmp_path / "out")) == 8


def test_the_provenance_has_all_that_was_judged(found, tmp_path):
    curate(tmp_path / "out", found, blocks=near_off(quality()))

    records = told(tmp_path / "out")
    for record in records:
        assert set(SIDES) <= set(record["measures"])
        reason = judge(record["measures"], THRESHOLDS.get(record["language"], {}))
        assert reason == record.get("reason")
    assert len(records) == 12


def test_what_is_kept_is_kept_when_it_is_curated_again(found, tmp_path):
    """Masked addresses repeat themselves: what is judged is what is written."""
    blocks = near_off(quality())
    curate(tmp_path / "first", found, blocks=blocks)
    again = {"a": ("auto", f"{tmp_path}/first/corpus/*/*.zst")}

    report = curate(tmp_path / "again", again, blocks=blocks)

    assert {row["stage"] for row in report["ledger"]} == {""}
    texts = lambda name: {one["text"] for one in documents(tmp_path / name)}
    assert texts("first") == texts("again")


def test_trusted_texts_set_thresholds_that_are_a_file(tmp_path, capsys):
    """Of languages of which there are enough of them."""
    trusted = [prose(CHINESE, i) for i in range(120)] + [prose(ENGLISH, i) for i in range(99)]
    path = tmp_path / "trusted.jsonl"
    write(path, trusted)
    bad = ["\n".join(["菜单"] * 40), CHINESE[0]]

    rules = pipeline_lib.make_settings(quality(trusted=path, max_drop=0.05)).thresholds

    said = capsys.readouterr().err
    assert "set by 120 zh" in said and "too few to set any, of 100 needed, 99 en" in said
    assert rules["en"] == THRESHOLDS["en"] and rules["zh"] != THRESHOLDS["zh"]
    alone = pipeline_lib.make_settings(quality("none", path, 0.05)).thresholds
    assert alone == {"zh": rules["zh"]}
    (tmp_path / "thresholds.json").write_text(json.dumps(rules))
    of_file = quality(tmp_path / "thresholds.json")
    assert pipeline_lib.make_settings(of_file).thresholds == rules
    found = write(tmp_path / "a.jsonl", [*trusted[:120], *bad])
    report = curate(tmp_path / "out", found, blocks=near_off(of_file))
    dropped = [one["place"] for one in told(tmp_path / "out") if one.get("stage") == "quality"]
    assert {f"{tmp_path}/a.jsonl:121", f"{tmp_path}/a.jsonl:122"} <= set(dropped)
    assert len(dropped) <= 2 + 0.05 * 120
    assert report["not_judged"] == {}


def test_trusted_rows_that_cannot_be_read_are_left_out_and_counted(tmp_path, capsys):
    path = tmp_path / "trusted.jsonl"
    write(path, [prose(CHINESE, i) for i in range(120)])
    alone = pipeline_lib.make_settings(quality(trusted=path)).thresholds
    assert "left out" not in capsys.readouterr().err
    bad = [b'{"text": "\xff"}', b"{", b"{", b'{"text": null}', b'{"text": " "}']
    path.write_bytes(b"\n".join([*bad[:2], path.read_bytes(), *bad[2:]]))
    (tmp_path / "trusted.txt").write_bytes("岛".encode("utf-16"))

    found = pipeline_lib.make_settings(quality(trusted=f"{tmp_path}/trusted.*")).thresholds

    said = capsys.readouterr().err
    assert "cannot be read, 1 empty, 2 not_json, 2 not_utf8, 1 text_is_null" in said
    assert found == alone


def test_few_trusted_texts_set_nothing(tmp_path):
    write(tmp_path / "few.jsonl", [prose(ENGLISH, i) for i in range(3)])

    with pytest.raises(UserError, match="has 100 texts of no language"):
        pipeline_lib.make_settings(quality(trusted=tmp_path / "few.jsonl"))


def test_thresholds_that_nothing_can_keep_are_refused(tmp_path):
    (tmp_path / "mine.json").write_text('{"en": {"num_units": [50, 20]}}')

    with pytest.raises(UserError, match="num_units must be at least 50 and at most 20, which noth"):
        pipeline_lib.make_settings(quality(tmp_path / "mine.json"))
