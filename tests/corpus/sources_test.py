import gzip
import hashlib
import json
import lzma
import pathlib
import sys
import types

import pytest
from backports import zstd

from lm.corpus import sources
from lm.corpus.sources import Document, Source, make_source, readable
from lm.data.records import read_records
from lm.errors import UserError
from lm.formats import files
from tests import tfds_texts

PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
    ".xz": lzma.compress,
}


def read(source, on_error="raise"):
    skipped = []
    return [d[:2] for d in readable(source, on_error, skipped)], [str(e) for e in skipped]


def text(pattern):
    return make_source("text", split="train", spec=str(pattern), field="")


def jsonl(pattern, field="text"):
    return make_source("jsonl", split="train", spec=str(pattern), field=field)


def stdlib(split):
    return make_source("python_stdlib", split=split, spec="", field="")


def test_the_standard_library_is_split_by_file():
    names = {s: {name for _, name in read(stdlib(s))[0]} for s in ("train", "validation")}
    size = {s: sum(len(text) for text, _ in read(stdlib(s))[0]) for s in names}

    assert names["train"].isdisjoint(names["validation"])
    assert pathlib.__file__ in names["train"] | names["validation"]
    everything = size["train"] + size["validation"]
    assert everything > 8e6
    assert 0.02 < size["validation"] / everything < 0.15
    for name in names["train"] | names["validation"]:
        parts = pathlib.Path(name).relative_to(pathlib.Path(pathlib.__file__).parent).parts
        assert {"site-packages", "test", "tests"}.isdisjoint(parts)


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_read_like_plain_ones(tmp_path, ending):
    for name, contents in {"b": "zwei\r\n\n", "a": "one\n"}.items():
        (tmp_path / f"{name}.txt{ending}").write_bytes(PACKERS[ending](contents.encode()))
    lines = [json.dumps({"text": t, "id": 7}) for t in ("uno", "dos\n", "")]
    (tmp_path / f"x.jsonl{ending}").write_bytes(PACKERS[ending]("\n\n".join(lines).encode()))

    documents, _ = read(text(tmp_path / "*.txt*"))
    assert documents == [
        ("one\n", f"{tmp_path}/a.txt{ending}"),
        ("zwei\r\n\n", f"{tmp_path}/b.txt{ending}"),
    ]
    path = f"{tmp_path}/x.jsonl{ending}"
    documents, _ = read(jsonl(path))
    assert documents == [("uno", f"{path}:1"), ("dos\n", f"{path}:3"), ("", f"{path}:5")]


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_that_were_joined_are_read_to_the_end(tmp_path, ending):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(PACKERS[ending](b"one, ") + PACKERS[ending](b"two"))
    assert read(text(path))[0] == [("one, two", str(path))]


BAD_FILES = {
    "utf8": ("a.txt", b"good \xff bad", text, "a.txt: byte 0xff at offset 5 is not UTF-8"),
    "cut gzip": ("a.txt.gz", gzip.compress(b"x" * 999)[:-9], text, "a.txt.gz: cannot be read"),
    "no gzip": ("a.txt.gz", b"plain", text, "a.txt.gz: cannot be read"),
    "cut xz": ("a.txt.xz", lzma.compress(b"x" * 999)[:-9], text, "a.txt.xz: cannot be read"),
    "cut zstd": ("a.txt.zst", zstd.compress(b"x" * 999)[:-5], text, "a.txt.zst: cannot be read"),
    "empty gzip": ("a.txt.gz", b"", text, "a.txt.gz: cannot be read"),
    "empty xz": ("a.txt.xz", b"", text, "a.txt.xz: cannot be read"),
    "no zstd": ("a.txt.zst", b"plain", text, "a.txt.zst: cannot be read"),
}
GOOD = b'{"text": "good"}\n'
BAD_LINES = {
    "utf8": (b'{"text": "\xe9"}', "x.jsonl:2: byte 0xe9 at offset 27 is not UTF-8"),
    "json": (b'{"text": "a",}', "x.jsonl:2: not JSON"),
    "missing": (b'{"body": "a"}', "x.jsonl:2: data.field='text' is missing; there are 'body'"),
    "number": (b'{"text": 5}', "x.jsonl:2: data.field='text' is a number"),
    "list": (b"[1]", "x.jsonl:2: holds a list"),
    "half a pair": (b'{"text": "a\\ud83d"}', "x.jsonl:2: character 1 is half a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_or_skipped(tmp_path, case):
    name, contents, make, says = BAD_FILES[case]
    (tmp_path / name).write_bytes(contents)
    (tmp_path / "b.txt").write_text("good")
    source = make(tmp_path / "*")

    with pytest.raises(UserError) as error:
        read(source)
    assert says in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    documents, skipped = read(source, "skip")
    assert [text for text, _ in documents] == ["good"]
    assert skipped == [str(error.value)]


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_or_skipped(tmp_path, case):
    line, says = BAD_LINES[case]
    (tmp_path / "x.jsonl").write_bytes(GOOD + line + b"\n" + GOOD)
    source = jsonl(tmp_path / "x.jsonl")

    with pytest.raises(UserError) as error:
        read(source)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    documents, skipped = read(source, "skip")
    assert [text for text, _ in documents] == ["good", "good"]
    assert skipped == [str(error.value)]


@pytest.mark.parametrize(
    "source, spec, field, says",
    [
        ("jsonlines", "x", "", "did you mean 'jsonl'? There are python_stdlib, text, jsonl"),
        ("", "x", "", "data.source='' is unknown"),
        ("text", "nowhere/*.txt", "", "data.train='nowhere/*.txt' matches no file"),
        ("text", "", "", "data.train is empty"),
        ("text", "x", "text", "data.field: 'text' means nothing to the source 'text'"),
        ("jsonl", "x", "", "data.field is empty"),
        ("python_stdlib", "x", "", "data.train: 'x' means nothing"),
        ("python_stdlib:3.11", "", "", "data.source: '3.11' means nothing"),
        ("tfds", "train", "text", "data.source is empty"),
        ("tfds:no_such_set_at_all", "train", "text", "tfds:no_such_set_at_all"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(source, spec, field, says):
    with pytest.raises(UserError) as error:
        make_source(source, split="train", spec=spec, field=field)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_fingerprints_follow_the_contents(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD * 2)
    first = jsonl(path).fingerprint()
    assert jsonl(path).fingerprint() == first

    path.write_bytes(GOOD + GOOD.replace(b"g", b"f"))
    assert jsonl(path).fingerprint() != first
    path.write_bytes(GOOD * 2)
    assert jsonl(path).fingerprint() == first
    path.rename(tmp_path / "y.jsonl")
    assert jsonl(tmp_path / "y.jsonl").fingerprint() != first


def poems(*, argument, **_):
    path = pathlib.Path(argument)

    def documents():
        for number, poem in enumerate(path.read_text().split("\n\n"), start=1):
            yield Document(poem, f"{path}: poem {number}")

    return Source(documents, fingerprint=lambda: files.hash_files([path]))


def test_ten_lines_add_a_source(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "poems", poems)
    path = tmp_path / "poems.txt"
    path.write_text("roses\n\nviolets")

    source = make_source(f"poems:{path}", split="train", spec="", field="")

    assert read(source)[0] == [("roses", f"{path}: poem 1"), ("violets", f"{path}: poem 2")]
    contents = hashlib.sha256(b"roses\n\nviolets").hexdigest()
    assert source.fingerprint() == hashlib.sha256(f"{path}\0{contents}\n".encode()).hexdigest()


def test_a_tfds_name_is_a_source(tmp_path, monkeypatch):
    tfds_texts.register(monkeypatch, "SomeGreetings", tmp_path, [f"grüß {i}" for i in range(4)])

    def source(spec, field="text"):
        return make_source("tfds:some_greetings", split="train", spec=spec, field=field)

    documents, _ = read(source("train[1:3]"))
    assert [text for text, _ in documents] == ["grüß 1", "grüß 2"]
    assert source("train").fingerprint() == source("train").fingerprint()
    with pytest.raises(UserError, match="validation"):
        source("validation")
    with pytest.raises(UserError, match="is missing; there are 'text'"):
        read(source("train", "body"))
    assert "tensorflow" not in sys.modules


class FakeDataset(list):
    def __init__(self, path, records):
        super().__init__(records)
        self.cache_files, self.features = [{"filename": str(path)}], {}
        self.column_names = ["text"]

    def select_columns(self, names):
        assert names == self.column_names
        return self


def test_hugging_face_data_sets_are_sources(tmp_path, monkeypatch):
    arrow = tmp_path / "data.arrow"
    arrow.write_bytes(b"1")
    records = FakeDataset(arrow, [{"text": "a"}, {"text": "b"}])
    load = lambda name, config, split: {("o/n", "en", "train[:2]"): records}[name, config, split]
    errors = types.SimpleNamespace(DatasetsError=LookupError)
    monkeypatch.setitem(
        sys.modules, "datasets", types.SimpleNamespace(load_dataset=load, exceptions=errors)
    )

    hub = make_source("hf:o/n:en", split="train", spec="train[:2]", field="text")

    assert read(hub)[0] == [("a", "hf:o/n:en[train[:2]]:0"), ("b", "hf:o/n:en[train[:2]]:1")]
    with pytest.raises(UserError, match=r"data\.train='test'"):
        make_source("hf:o/n", split="train", spec="test", field="text")
    before = hub.fingerprint()
    arrow.write_bytes(b"2")
    assert hub.fingerprint() != before


SAVED = {  # What save_to_disk wrote, as one split and as a dictionary of two.
    "one": {
        "train": "abcd",
        "train[:50%]": "ab",
        "train[1:3]": "bc",
        "train[:1]+train[3:]": "ad",
        "validation": "there are the splits train",
        "train[": "there are the splits train",
    },
    "both": {
        "train": "abcd",
        "train[50%:]": "cd",
        "test": "xy",
        "train[-1:]+test[:1]": "dx",
        "nope": "there are the splits train, test",
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    import datasets

    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("saved")
    train, test = (datasets.Dataset.from_dict({"text": list(t)}) for t in ("abcd", "xy"))
    train.save_to_disk(folder / "one")
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder / "both")
    return folder


@pytest.mark.parametrize("name", SAVED)
def test_what_save_to_disk_wrote_is_read_by_split_and_slice(saved, name):
    for spec, expected in SAVED[name].items():
        make = lambda spec=spec: make_source(
            f"hf:{saved}/{name}", split="train", spec=spec, field="text"
        )
        if expected.startswith("there"):
            with pytest.raises(UserError, match=expected):
                make()
            with pytest.raises(UserError, match=expected):
                read_records(f"hf:{saved}/{name}", split="train", spec=spec)
            continue
        assert "".join(text for text, _ in read(make())[0]) == expected
        assert len(make().fingerprint()) == 64
        records = read_records(f"hf:{saved}/{name}", split="train", spec=spec).records()
        assert "".join(record.fields["text"] for record in records) == expected


def test_without_the_datasets_library_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        make_source("hf:o/n", split="train", spec="train", field="text")
