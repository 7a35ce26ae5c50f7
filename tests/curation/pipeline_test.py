"""Of a whole curation: nothing is lost, and who did it changes no byte."""

import json
import os
import pathlib
import random

import pytest
from backports import zstd

from lm.corpus import sources
from lm.curation import inputs, ledger, web_text
from lm.curation import pipeline as pipeline_lib
from lm.curation.cache import StageCache
from lm.curation.engines import local
from lm.errors import UserError
from tests.curation import duplicates_in_memory

BLOCKS = {
    "repair": dict(encoding=True, controls=True),
    "language": dict(keep=()),
    "decontaminate": dict(
        files="",
        fields="",
        tasks="",
        include_path="",
        default_tasks=True,
        action="drop",
        words=5,
        characters=8,
        min_units=4,
        coverage=0.5,
        max_documents=10,
        max_share=1e-4,
    ),
    "quality": dict(thresholds="none", trusted="", field="text", max_drop=0.01),
    "output": dict(validation_share=0.2),
    "private": dict(kinds=("email", "phone")),
    "duplicates": dict(
        near=True,
        ngram=5,
        num_bands=16,
        band_rows=6,
        threshold=0.8,
        measure="jaccard",
        max_compared=32,
    ),
}
ENGLISH = "The river was calm, and nobody on the ferry spoke of the {}th flood. "
CHINESE = "河水很平静，渡船上没有人谈起第{}次洪水。"


@pytest.fixture
def texts():
    """Texts with copies, mojibake, controls; and lines that are none, each with its reason."""
    good = [ENGLISH.format(i) * 3 for i in range(30)] + [CHINESE.format(i) * 3 for i in range(30)]
    good += good[::3] + good[::7]
    good += [good[0].replace("\n", "\r\n") + "\x00", "编码的问题很多。".encode().decode("latin-1")]
    lines = [json.dumps({"text": text}, ensure_ascii=i % 2) for i, text in enumerate(good)]
    bad = {
        "not_json": "{",
        "not_an_object": "[1]",
        "no_such_field": "{}",
        "text_is_null": '{"text": null}',
        "text_is_no_string": '{"text": 3}',
        "half_surrogate": '{"text": "\\ud800"}',
        "empty": '{"text": " \\n"}',
        "too_deep": '{"text": ' + "[" * 200 + "]" * 200 + "}",
    }
    return [*lines, *bad.values()], bad.keys()


def make_input(name, kind, path):
    limits = web_text.make_limits(max_seconds=5.0, max_memory_bytes=2**31)
    options = dict(field="text", licence="", max_document_bytes=10**6, limits=limits)
    return inputs.make_input(name=name, kind=kind, path=path, **options)


def curate(folder, found, num_workers=1, num_shards=3, sort_bytes=3000, blocks=BLOCKS):
    """Curates inputs, given as name -> (kind, path), into a folder; gives the report."""
    made = [make_input(name, kind, path) for name, (kind, path) in found.items()]
    folder.mkdir(exist_ok=True)
    options = dict(num_workers=num_workers, num_shards=num_shards, sort_bytes=sort_bytes)
    with local.opened(**options) as engine:
        pipeline = pipeline_lib.Pipeline(engine, StageCache(folder / "cache"))
        pipeline.run(made, pipeline_lib.make_settings(blocks))
        return pipeline_lib.write_corpus(engine, pipeline, folder, validation_share=0.2)


def corpus(folder):
    """The bytes of each file that the corpus consists of."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "corpus").rglob("*.zst"))
    }


def documents(folder):
    """The objects of all lines of the corpus."""
    return [json.loads(line) for data in corpus(folder).values() for line in unpacked(data)]


def unpacked(data):
    return zstd.decompress(data).splitlines()


def test_every_document_ends_in_one_named_place(texts, tmp_path):
    lines, bad = texts
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    report = curate(tmp_path / "out", {"a": ("auto", str(tmp_path / "a.jsonl"))})

    counted = ledger.of_rows(report["ledger"])
    by_reason = ledger.by(counted, ("reason",))
    assert sum(count.documents for count in by_reason.values()) == len(lines)
    assert {reason for (reason,) in by_reason} == {"", "equal_text", *bad}
    assert all(by_reason[reason,].documents == 1 for reason in bad)
    assert by_reason["",].documents == len(documents(tmp_path / "out")) == 61
    # All bytes of the documents, and of the lines that are none.
    sizes = [len(json.loads(line)["text"].encode()) for line in lines[: -len(bad)]]
    lost = [len(line.encode()) for line in lines[-len(bad) :]]
    losses = sum(by_reason[reason,].num_bytes for reason in bad)
    assert losses == sum(lost) - len(lines[-2]) + len(" \n")  # Of a document, its text counts.
    assert sum(count.num_bytes for count in by_reason.values()) == sum(sizes) + losses


def test_the_ledger_is_that_of_the_provenance(texts, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(texts[0]))

    report = curate(tmp_path / "out", {"a": ("auto", str(tmp_path / "a.jsonl"))})

    with zstd.open(tmp_path / "out/provenance.jsonl.zst") as file:
        lines = list(file)
    random.Random(0).shuffle(lines)
    parts = [ledger.count(lines[:20]), ledger.count(lines[20:21]), ledger.count(lines[21:])]
    assert ledger.rows(ledger.total(parts[::-1])) == report["ledger"]
    assert lines != sorted(lines)
    places = [json.loads(line)["place"] for line in lines]
    assert sorted(places) == sorted(f"{tmp_path}/a.jsonl:{i + 1}" for i in range(len(texts[0])))
    copies = sum(json.loads(line).get("copies", 1) for line in lines if b'"stage"' not in line)
    assert copies == len(texts[0]) - len(texts[1])


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_change_no_byte(num_workers, texts, tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.jsonl").write_text("\n".join(texts[0][i::4]))
    found = {"a": ("jsonl", f"{tmp_path}/*.jsonl")}

    one = curate(tmp_path / "one", found)
    many = curate(tmp_path / "many", found, num_workers=num_workers, sort_bytes=10**6)

    assert one == many
    assert corpus(tmp_path / "one") == corpus(tmp_path / "many")
    assert all(
        (tmp_path / name / "provenance.jsonl.zst").read_bytes()
        == (tmp_path / "one/provenance.jsonl.zst").read_bytes()
        for name in ("one", "many")
    )


def test_what_engines_fold_is_the_same_through_json(texts, tmp_path, monkeypatch):
    item = json.dumps({"text": "Seven copper kettles hung beside nine lamps of blue glass."})
    (tmp_path / "a.jsonl").write_text("\n".join([*texts[0], item]))
    (tmp_path / "items.jsonl").write_text(item)
    blocks = BLOCKS | {"decontaminate": BLOCKS["decontaminate"] | {"files": f"{tmp_path}/items*"}}
    found, fold = {"a": ("auto", str(tmp_path / "a.jsonl"))}, local.LocalEngine.fold

    plain = curate(tmp_path / "plain", found, blocks=blocks)
    through_json = lambda *args: [json.loads(json.dumps(x)) for x in fold(*args)]
    monkeypatch.setattr(local.LocalEngine, "fold", through_json)

    assert curate(tmp_path / "json", found, blocks=blocks) == plain
    assert any(row["reason"] == "holds_item" for row in plain["ledger"])
    assert plain["measures"] and plain["clusters"] and plain["samples"] and plain["masked"] == {}


def test_neither_order_nor_split_of_the_input_changes_the_corpus(texts, tmp_path):
    lines = list(texts[0])
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    random.Random(1).shuffle(lines)
    for i in range(7):
        (tmp_path / f"part{i}.jsonl").write_text("\n".join(lines[i::7]))

    whole = curate(tmp_path / "whole", {"a": ("auto", str(tmp_path / "all.jsonl"))})
    parts = curate(tmp_path / "parts", {"a": ("auto", f"{tmp_path}/part*.jsonl")})

    of_places = ("clusters", "samples")
    assert all(whole[key] == parts[key] for key in whole if key not in of_places)
    assert corpus(tmp_path / "whole") == corpus(tmp_path / "parts")


def test_curating_a_corpus_again_changes_nothing(texts, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(texts[0]))

    curate(tmp_path / "first", {"a": ("auto", str(tmp_path / "a.jsonl"))})
    report = curate(tmp_path / "again", {"a": ("auto", f"{tmp_path}/first/corpus/*/*.zst")})

    assert {row["reason"] for row in report["ledger"]} == {""}
    plain = lambda folder: [(d["id"], d["text"]) for d in documents(folder)]
    assert plain(tmp_path / "first") == plain(tmp_path / "again")


def test_duplicates_are_those_that_are_found_in_memory(tmp_path):
    rng = random.Random(0)
    words = [f"word{i}" for i in range(300)]
    han = "河水很平静渡船上没有人谈起洪我们看见山间的云慢过去老说今年会来早些"
    texts = []
    for i in range(40):
        text = " ".join(rng.choices(words, k=60)) if i % 2 else "".join(rng.choices(han, k=80))
        texts.append(text)
        for _ in range(i % 4):  # Each is changed once more, so that there are chains.
            at = rng.randrange(len(text) - 6)
            text = text[:at] + "变" + text[at + 3 :]
            texts += [text] * rng.randrange(1, 3)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    settings = pipeline_lib.make_settings(BLOCKS).duplicates

    curate(tmp_path / "out", {"a": ("auto", str(tmp_path / "a.jsonl"))})

    fates = duplicates_in_memory.find({str(i): text for i, text in enumerate(texts)}, settings)
    kept = {texts[int(name)]: fate.copies for name, fate in fates.items() if not fate.of}
    found = documents(tmp_path / "out")
    assert {document["text"]: document["copies"] for document in found} == kept
    assert len(kept) == len(found) < len(set(texts)) < len(texts)
    with zstd.open(tmp_path / "out/provenance.jsonl.zst") as file:
        told = [json.loads(line) for line in file]
    by_id = {one["id"]: texts[int(one["place"].rpartition(":")[2]) - 1] for one in told}
    near = [one for one in told if one.get("reason") == "near_duplicate"]
    assert near
    assert all(by_id[one["of"]] in kept for one in near)
    assert all(one["measures"]["similarity"] >= 0.8 for one in near)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_documents_that_hold_an_item_of_an_evaluation_are_dropped_or_cut(num_workers, tmp_path):
    item, other = (
        "Which of the ferries was the first to leave the flooded town?",
        "第一艘渡船是什么时候离开小镇的？",
    )
    texts = [ENGLISH.format(i) * 3 for i in range(9)]
    held = [f"{texts[0]}\n\n{item.upper()}\n\n{texts[1]}", f"他说：{other}没有人知道。"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts + held))
    lines = [json.dumps({"question": x, "n": 1}) for x in (item, other, "too short")]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    found = {"a": ("auto", str(tmp_path / "a.jsonl"))}
    settings = BLOCKS["decontaminate"] | {"files": str(tmp_path / "items.jsonl")}

    dropped = curate(
        tmp_path / "out", found, num_workers, blocks=BLOCKS | {"decontaminate": settings}
    )
    cut = BLOCKS | {"decontaminate": settings | {"action": "cut"}}
    curate(tmp_path / "cut", found, num_workers, blocks=cut)

    reasons = ledger.by(ledger.of_rows(dropped["ledger"]), ("stage", "reason"))
    assert reasons["decontaminate", "holds_item"].documents == 2
    assert {one["text"] for one in documents(tmp_path / "out")} == set(texts)
    assert {one["text"] for one in documents(tmp_path / "cut")} == {
        *texts, f"{texts[0]}\n\n{texts[1]}",
    }  # fmt: skip
    with zstd.open(tmp_path / "out/provenance.jsonl.zst") as file:
        told = [one for one in map(json.loads, file) if "items" in one]
    names = {one["place"].rpartition(":")[2]: one["items"][0][0] for one in told}
    assert names == {"10": f"{tmp_path}/items.jsonl:1", "11": f"{tmp_path}/items.jsonl:2"}
    assert dropped["items"]["not_searched"]["too_short"] == [f"{tmp_path}/items.jsonl:3"]
    assert all(one["items"][0][1] >= 0.5 for one in told)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_quality_is_judged_by_the_thresholds_of_a_language(language, tmp_path):
    good = {"en": ENGLISH.format("third"), "zh": CHINESE.format("三")}[language]
    texts = [f"{good * 2}{i}" for i in range(6)] + ["# # # # ab # # # # cd # # # # ef"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    bounds = {language: {"hashes_per_unit": [None, 0.1]}, "und": {"hashes_per_unit": [None, 0.1]}}
    (tmp_path / "mine.json").write_text(json.dumps(bounds))
    settings = BLOCKS["quality"] | {"thresholds": str(tmp_path / "mine.json")}

    report = curate(
        tmp_path / "out",
        {"a": ("auto", str(tmp_path / "a.jsonl"))},
        blocks=BLOCKS | {"quality": settings, "duplicates": BLOCKS["duplicates"] | {"near": False}},
    )

    reasons = ledger.by(ledger.of_rows(report["ledger"]), ("stage", "reason"))
    assert reasons["quality", "hashes_per_unit_high"].documents == 1
    assert reasons["", ""].documents == 6
    assert {row["measure"] for row in report["measures"]} >= {"num_units", "hashes_per_unit"}
    assert report["thresholds"][language] == bounds[language]


def test_thresholds_are_set_by_trusted_text(tmp_path):
    lines = [json.dumps({"text": ENGLISH.format(i) * (3 + i % 5)}) for i in range(120)]
    (tmp_path / "good.jsonl").write_text("\n".join(lines))
    settings = BLOCKS["quality"] | {"trusted": str(tmp_path / "good.jsonl"), "max_drop": 0.05}

    report = curate(
        tmp_path / "out",
        {"a": ("auto", str(tmp_path / "good.jsonl"))},
        blocks=BLOCKS | {"quality": settings, "duplicates": BLOCKS["duplicates"] | {"near": False}},
    )

    reasons = ledger.by(ledger.of_rows(report["ledger"]), ("stage",))
    assert reasons[("",)].documents >= 114
    assert report["thresholds"]["en"]["num_units"][0] > 10


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("[]", "must hold"),
        ("{", "must hold"),
        ('{"en": {"num_units": 3}}', "must hold"),
        ('{"en": {"num_unit": [1, 2]}}', "the measure='num_unit' is unknown"),
        ('{"en": {"num_units": ["a", 2]}}', "must have two numbers"),
        (None, "cannot be read"),
    ],
)
def test_thresholds_that_are_none_are_refused(contents, message, tmp_path):
    if contents is not None:
        (tmp_path / "mine.json").write_text(contents)
    settings = BLOCKS["quality"] | {"thresholds": str(tmp_path / "mine.json")}

    with pytest.raises(UserError, match=message):
        pipeline_lib.make_settings(BLOCKS | {"quality": settings})


class Killed(Exception):
    """Ends a curation where it stands."""


@pytest.mark.parametrize("at", [1, 12, 33, 47])
def test_a_killed_curation_goes_on(at, texts, tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.jsonl").write_text("\n".join(texts[0][i::3]))
    found = {"a": ("jsonl", f"{tmp_path}/*.jsonl")}
    curate(tmp_path / "whole", found)
    writes = []
    real = local.shards.write

    def write(path, lines):
        writes.append(path)
        if len(writes) == at:
            path.with_name(f"{path.name}.tmp").write_bytes(b"half of it")
            raise Killed
        return real(path, lines)

    monkeypatch.setattr(local.shards, "write", write)
    with pytest.raises(Killed):
        curate(tmp_path / "killed", found)
    monkeypatch.setattr(local.shards, "write", real)
    curate(tmp_path / "killed", found)

    assert corpus(tmp_path / "killed") == corpus(tmp_path / "whole")


def test_what_a_killed_curation_wrote_is_not_taken_for_other_inputs(texts, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    found = {"a": ("jsonl", str(path))}
    path.write_text("\n".join(texts[0][:40]))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pipeline_lib, "_entry", _killed)  # Behind the shards of a split.
        curate(tmp_path / "killed", found)
    path.write_text("\n".join(texts[0][20:]))
    curate(tmp_path / "killed", found)
    curate(tmp_path / "whole", found)

    assert corpus(tmp_path / "killed") == corpus(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob("*.unfinished"))


def _killed(path):
    raise Killed


def test_the_order_of_thresholds_in_a_file_changes_nothing(tmp_path):
    bounds = {"num_units": [20, None], "stop_words": [2, None]}
    found = []
    for name, order in (("a", list), ("b", lambda items: list(items)[::-1])):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"en": dict(order(bounds.items()))}))
        quality = BLOCKS["quality"] | {"thresholds": str(path)}
        settings = pipeline_lib.make_settings(BLOCKS | {"quality": quality})
        found.append(list(settings.thresholds["en"]))

    assert found[0] == found[1] == list(bounds)


def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first")
    made = make_input("a", "auto", str(path))
    path.write_text("second")

    with pytest.raises(UserError, match=r"a\.txt changed while it was read"):
        inputs.check_unchanged([made])


def test_nothing_stays_of_an_input_that_changed_while_it_was_read(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("first")
    times = path.stat()
    found = {"a": ("text", str(path))}
    read = inputs.read

    def write_to(task):
        path.write_text("second")
        return read(task)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="changed while"):
        patch.setattr(inputs, "read", write_to)
        curate(tmp_path / "out", found)
    path.write_text("first")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    curate(tmp_path / "out", found)

    assert [each["text"] for each in documents(tmp_path / "out")] == ["first"]


def test_files_behind_links_are_read_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.txt").write_text("a text")
    (tmp_path / "again").symlink_to("real")
    (tmp_path / "real/b.txt").symlink_to("a.txt")

    made = make_input("a", "auto", f"{tmp_path}/**/*.txt")

    assert len(made.files) == 1
    assert made.num_links == 3


def test_training_reads_what_was_curated(texts, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(texts[0]))
    curate(tmp_path / "out", {"a": ("auto", str(tmp_path / "a.jsonl"))})
    options = dict(spec="", field="")
    opened = {
        split: sources.make_source(f"curated:{tmp_path}/out", split=split, **options)
        for split in ("train", "validation")
    }

    read = {split: [d.text for d in source.documents()] for split, source in opened.items()}

    assert sorted(read["train"] + read["validation"]) == sorted(
        d["text"] for d in documents(tmp_path / "out")
    )
    assert 0.05 < len(read["validation"]) / 61 < 0.4
    assert opened["train"].fingerprint() != opened["validation"].fingerprint()
    shard = next(pathlib.Path(tmp_path, "out/corpus/train").iterdir())
    shard.write_bytes(b"")
    with pytest.raises(UserError, match="is not as it was written"):
        sources.make_source(f"curated:{tmp_path}/out", split="train", **options)


@pytest.mark.parametrize("written", ["", '{"splits": {', "[]", "{}", '{"splits": {"train": 1}}'])
def test_a_corpus_whose_list_of_files_is_damaged_is_named(written, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/corpus.json").write_text(written)

    with pytest.raises(
        UserError, match=r"corpus\.json is not as it was written; run configs/curate"
    ):
        sources.make_source(f"curated:{tmp_path}", split="train", spec="", field="")
