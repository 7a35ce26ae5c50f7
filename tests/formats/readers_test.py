"""Each format by one reader, in pretraining and in fine-tuning, whatever the file went through."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import tracemalloc

import pytest
from backports import zstd

from lm.corpus.sources import make_source
from lm.corpus.sources import readable as readable_documents
from lm.data.records import read_records, readable
from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import lookup

# Line ends to Unicode, but not to a file's reader: U+2028, U+0085, and others.
TEXTS = [
    "one",
    "zwei \u2028 drei",
    "北京\u0085市",
    "a\x0bb\x1cc",
    'say "ja", und',
    "👋🏽 \ufeff x",
    "e",
]
PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".GZ": gzip.compress,
    ".zst": zstd.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def json_lines(texts):
    return "".join(json.dumps({"text": t, "n": 1}, ensure_ascii=False) + "\n" for t in texts)


def json_list(texts):
    return json.dumps([{"text": t, "n": 1} for t in texts], ensure_ascii=False, indent=1)


def table(texts, **dialect):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", **dialect).writerows(
        [("text", "n"), *((t, 1) for t in texts)]
    )
    return file.getvalue()


def tabs(texts):
    return "text\tn\n" + "".join(f"{t}\t1\n" for t in texts)


def words(texts):
    return "".join(f"{t.replace(' ', '_')} B-X\nnext O\n\n" for t in texts)


def universal(texts):
    rest = "\t_\tNOUN\tNN\t_\t0\troot\t_\t_\n"
    return "".join(f"# sent_id = 1\n1\t{t}{rest}\n" for t in texts)


WRITERS = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_list,
    ".csv": table,
    ".tsv": tabs,
    ".conll": words,
    ".conllu": universal,
}
ONE_LINE_A_RECORD = (".jsonl", ".ndjson", ".csv", ".tsv")


def read(path, on_error="raise", max_bytes=files.MAX_DOCUMENT_BYTES):
    """The texts of a file, as both experiments read them, and what was left out."""
    skipped = []
    source = read_records("files", split="train", spec=str(path), max_document_bytes=max_bytes)
    found = [record.fields for record in readable(source, on_error, skipped)]
    texts = [f["text"] if "text" in f else f["tokens"][0] for f in found]
    kinds = ["jsonl", "files"] if ".jsonl" in path.name else ["files"]
    for kind in kinds if all("text" in f for f in found) else []:
        also_skipped = []
        source = make_source(
            kind, split="train", spec=str(path), field="text", max_document_bytes=max_bytes
        )
        documents = [d.text for d in readable_documents(source, on_error, also_skipped)]
        assert documents == texts
        assert list(map(str, also_skipped)) == list(map(str, skipped))
    return texts, skipped


def expected(suffix):
    return [t.replace(" ", "_") for t in TEXTS] if suffix == ".conll" else TEXTS


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("suffix", WRITERS)
def test_what_a_file_goes_through_on_its_way_changes_no_record(tmp_path, suffix, packer):
    text = WRITERS[suffix](TEXTS)
    ways = {
        "as it is": text.encode(),
        "with a mark": text.encode("utf-8-sig"),
        "CR LF": text.replace("\n", "\r\n").encode(),
        "CR": text.replace("\n", "\r").encode(),
        "no last end": text.rstrip("\n").encode(),
    }
    for way, data in ways.items():
        path = tmp_path / f"{way}{suffix}{packer}"
        half = len(data) // 2
        joined = PACKERS[packer](data[:half]) + PACKERS[packer](data[half:])  # Two members.
        path.write_bytes(joined)
        assert read(path) == (expected(suffix), []), way


@pytest.mark.parametrize("suffix", WRITERS)
def test_blocks_may_end_anywhere(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(WRITERS[suffix](TEXTS).replace("\n", "\r\n").encode("utf-8-sig"))
    for size in (1, 3):
        monkeypatch.setattr(files, "_BLOCK_BYTES", size)
        assert read(path) == (expected(suffix), [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("suffix", [*WRITERS, ".txt"])
def test_other_encodings_are_named(tmp_path, suffix, encoding):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(WRITERS.get(suffix, "\n".join)(["one", "two", "three"]).encode(encoding))
    with pytest.raises(UserError) as caught:
        if suffix == ".txt":
            source = make_source("text", split="train", spec=str(path), field="")
            list(readable_documents(source, "raise", []))
        else:
            read(path)
    assert f"is {encoding[:6].upper()}, not UTF-8; convert it: iconv" in str(caught.value)


@pytest.mark.parametrize("packer", [".gz", ".zst", ".xz", ".bz2"])
@pytest.mark.parametrize("suffix", ONE_LINE_A_RECORD)
def test_of_a_cut_archive_nobody_counts_what_is_lost(tmp_path, suffix, packer):
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefghijklmnop ", k=60)) for _ in range(8_000)]
    packed = PACKERS[packer](WRITERS[suffix](texts).encode())
    path = tmp_path / f"a{suffix}{packer}"
    path.write_bytes(packed[: len(packed) * 3 // 5])

    with pytest.raises(UserError, match="cannot be read"):
        read(path)
    found, (error,) = read(path, "skip")
    assert 0 <= len(found) < len(texts) and found == texts[: len(found)]
    assert isinstance(error, files.RestUnread)
    if packer != ".bz2":  # Which unpacks blocks of 900 kB.
        assert found and f"behind its first {len(found):,} records" in str(error)


BAD = {
    "5,000 digits": ('{"text": "x", "n": ' + "9" * 5000 + "}", "digits"),
    "deep": ('{"text": "x", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "deeper than"),
    "deep, and read by json": ('{"text": "x", "n": ' + "[" * 300 + "]" * 300 + "}", "deeper than"),
    "half a character": ('{"text": "\\ud800"}', "half a surrogate pair"),
    "not UTF-8": (b'{"text": "\xe9"}', "byte 0xe9"),
    "not JSON": ('{"text": }', "not JSON"),
    "no object": ('["text"]', "holds a list"),
    "long": ('{"text": "' + "x" * 300_000 + '"}', "longer than data.max_document_bytes=250,000"),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_bad_record_is_named_and_its_neighbours_are_read(tmp_path, suffix, fault):
    line, says = BAD[fault]
    line = line if isinstance(line, bytes) else line.encode()
    good = [f'{{"text": "{i}"}}'.encode() for i in range(4)]
    data = b"\r\n".join([good[0], line, good[1], b"", line, good[2], good[3]])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACKERS[suffix.removeprefix(".jsonl")](data))

    with pytest.raises(UserError, match=says) as caught:
        read(path, max_bytes=250_000)
    assert f"{path}:2: " in str(caught.value) and "\n" not in str(caught.value)
    texts, skipped = read(path, "skip", max_bytes=250_000)
    assert texts == ["0", "1", "2", "3"]
    assert [str(e).split(":")[1] for e in skipped] == ["2", "5"]


TABS = {  # What a line is read as, under a header of two columns.
    'he said "so"\t1\n': [('he said "so"', "1")],
    '"Open he said\t1\n"Again\t0\n': [('"Open he said', "1"), ('"Again', "0")],
    '"all of it"\t1\n': [('"all of it"', "1")],
    '"with ""more"" in it"\t1\n': [('with "more" in it', "1")],
    '"a\tb"\t1\nc\t0\n': [("a\tb", "1"), ("c", "0")],
    '"a\nb\n\nc"\t1\nd\t0\n': [("a\nb\n\nc", "1"), ("d", "0")],
    '1\t"a\nb"\nd\t0\n': [("1", "a\nb"), ("d", "0")],
}


@pytest.mark.parametrize("body", TABS)
def test_quotes_of_tables_with_tabs_are_text_unless_they_cannot_be(tmp_path, body):
    (tmp_path / "a.tsv").write_text("text\tn\n" + body)
    (tmp_path / "b.tsv").write_text(
        table([text for text, _ in TABS[body]], delimiter="\t", quoting=csv.QUOTE_ALL)
    )

    rows = read_records("files", split="train", spec=str(tmp_path / "a.tsv")).records()
    assert [tuple(row.fields.values()) for row in rows] == TABS[body]
    assert read(tmp_path / "b.tsv")[0] == [text for text, _ in TABS[body]]


def test_a_quote_that_is_not_closed_loses_an_unknown_rest(tmp_path):
    (tmp_path / "a.csv").write_text('text,n\na,1\n"b,1\nc,1\nd,1\n')
    texts, (error,) = read(tmp_path / "a.csv", "skip")
    assert texts == ["a"] and isinstance(error, files.RestUnread) and ":3: a quote" in str(error)


@pytest.mark.parametrize("suffix, tab", [(".csv", b","), (".tsv", b"\t")])
@pytest.mark.parametrize(
    "row", [b'"first line\nbad \xff byte\nand the rest"', b'"\xff\n\xfe"', b"\xff", b'"a\n\xff"']
)
def test_a_row_with_a_bad_byte_is_left_out_whole(tmp_path, suffix, tab, row):
    path = tmp_path / f"a{suffix}"
    rows = [b"x,1", row + b",1", b"y,0", b'"a ""b"" c",1']
    path.write_bytes(b"\n".join([b'"text","n"', *rows]).replace(b",", tab))
    texts, (error,) = read(path, "skip")
    assert texts == ["x", "y", 'a "b" c']
    assert "byte 0xff" in str(error) and "is not UTF-8" in str(error)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_bad_byte_is_named_by_its_offset_in_the_file(tmp_path, mark):
    data = {".csv": b"text,n\na,1\n\xff,1\n", ".json": b'["\xff"]', ".jsonl": b'{}\n"\xff"\n'}
    for suffix, contents in data.items():
        (tmp_path / f"a{suffix}").write_bytes(mark + contents)
        with pytest.raises(UserError, match=f"offset {(mark + contents).index(255)} is not UTF-8"):
            read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix, tab", [(".csv", ","), (".tsv", "\t")])
def test_a_line_too_long_inside_a_quoted_value_loses_an_unknown_rest(tmp_path, suffix, tab):
    rows = ['"text","n"', "x,1", '"a', "b" * 99, 'and the rest",1', "y,0"]
    (tmp_path / f"a{suffix}").write_text("\n".join(rows).replace(",", tab))
    texts, (error,) = read(tmp_path / f"a{suffix}", "skip", max_bytes=50)
    assert texts == ["x"] and isinstance(error, files.RestUnread) and ":4: is longer" in str(error)


LONG = "b" * 99
LONG_ROWS = {  # In tables with commas; with the number of the line that is said, and what is read.
    "opens a value": (['"' + LONG, 'the,rest",1', "y,0"], 2, ["x"]),
    "opens one behind another": (['"a ""b""",' + LONG + '"', 'the rest"', "y,0"], 2, ["x"]),
    "opens one at its end": ([LONG + ',"', '"', "y,0"], 2, ["x"]),
    "closes what it opens": (['"' + LONG + ' ""so""",1', "y,0"], None, ["x", "y"]),
    "has no quote": ([LONG + ",1", "y,0"], None, ["x", "y"]),
    "grows on short lines": (['"a', *["b" * 9] * 9, 'the rest",1', "y,0"], 2, ["x"]),
    "grows, the last value": (['1,"', *["b" * 9] * 9, 'the rest"', "y,0"], 2, ["x"]),
}


@pytest.mark.parametrize("suffix, tab", [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("kind", LONG_ROWS)
def test_a_row_that_is_too_long_is_left_out_with_what_belongs_to_it(tmp_path, suffix, tab, kind):
    rows, rest_from, wanted = LONG_ROWS[kind]
    path = tmp_path / f"a{suffix}"
    path.write_text("\n".join(['"text","n"', "x,1", *rows, ""]).replace(",", tab))

    texts, (error,) = read(path, "skip", max_bytes=60)

    assert texts == wanted
    assert isinstance(error, files.RestUnread) == (rest_from is not None)
    assert str(error).startswith(f"{path}:3: is longer than data.max_document_bytes=60; raise")
    with pytest.raises(UserError, match=":3: is longer"):
        read(path, max_bytes=60)


def test_a_long_line_whose_quotes_are_text_costs_no_other_row_of_a_table_with_tabs(tmp_path):
    for body, wanted in (
        (f'"{LONG}\t1\n"y\t0\n', ['"y']),
        (f'"{LONG}\t1\n"{LONG}\t1\ny\t0\n', ["y"]),
        (f'"{LONG}\nthe rest"\t1\ny\t0\n', []),
        (f'1\t"{LONG}\nthe rest"\ny\t0\n', []),
    ):
        (tmp_path / "a.tsv").write_text("text\tn\n" + body)
        texts, errors = read(tmp_path / "a.tsv", "skip", max_bytes=60)
        assert texts == wanted
        assert [isinstance(error, files.RestUnread) for error in errors] == (
            [True] if not wanted else [False] * body.count(LONG)
        )


@pytest.mark.parametrize(
    "text, most",
    [
        ("words of a text. ", 3.3),
        ("line\n", 3.3),
        ("Größe ", 4.1),
        ("我们在上海见面。", 5.1),
        ("👋🏽", 7.5),
    ],
    ids=["letters", "lines", "Latin-1", "Chinese", "emoji"],
)
def test_a_long_line_of_json_takes_few_times_its_size(tmp_path, text, most):
    """Two of its bytes, its text and what is read of it at once, and what was read before."""
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines([text * (2_000_000 // len(text.encode()))] * 2))
    source = make_source("jsonl", split="train", spec=str(path), field="text")

    tracemalloc.start()
    sizes = [len(document.text) for document in source.documents()]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(sizes) == 2
    assert peak / (path.stat().st_size / 2) < most


def test_a_sentence_without_end_is_left_out_and_the_next_one_read(tmp_path):
    endless = "".join(f"word{i} O\n" for i in range(30))
    (tmp_path / "a.conll").write_text(f"a O\n\n{endless}\nb O\n\n{endless}")

    records = read_records(
        "files", split="train", spec=str(tmp_path / "a.conll"), max_document_bytes=60
    ).records()

    found = [str(r) if isinstance(r, UserError) else r.fields["tokens"] for r in records]
    assert found[::2] == [["a"], ["b"]]
    assert [error.partition(";")[0].rpartition("a.conll:")[2] for error in found[1::2]] == [
        "3: is longer than data.max_document_bytes=60",
        "36: is longer than data.max_document_bytes=60",
    ]


COMMENTS = {
    "# id 7 domain=en\nEU _ _ B-X\nis _ _ O\n": ["EU", "is"],
    "# sent_id = 1\n# text = EU is\nEU B-X\nis O\n": ["EU", "is"],
    "#comment\nEU B-X\n": ["EU"],
    "# O\nis O\n": ["#", "is"],
    "-DOCSTART- -X- O O\n\n# NN B-NP O\n1 CD I-NP O\n": ["#", "1"],
    "#tag NN O\n": ["#tag"],
    "# newdoc\n\nEU B-X\n": ["EU"],
}


@pytest.mark.parametrize("text", COMMENTS)
def test_comments_before_a_sentence_are_no_words(tmp_path, text):
    (tmp_path / "a.conll").write_text(text)
    (record,) = read_records("files", split="train", spec=str(tmp_path / "a.conll")).records()
    assert record.fields["tokens"] == COMMENTS[text]


FIELDS = {"meta": {"text": "in", "turns": [{"text": "first"}]}, "a.b": "dot", "a": {"b": "no"}}


@pytest.mark.parametrize(
    "key, value",
    [("meta.text", "in"), ("meta.turns.0.text", "first"), ("a.b", "dot")],
)
def test_fields_are_found_by_path_unless_one_has_that_name(tmp_path, key, value):
    assert lookup(FIELDS, key) == value
    (tmp_path / "a.jsonl").write_text(json.dumps(FIELDS))
    for kind in ("jsonl", "files"):
        source = make_source(kind, split="train", spec=str(tmp_path / "a.jsonl"), field=key)
        assert [d.text for d in readable_documents(source, "raise", [])] == [value]


@pytest.mark.parametrize("key", ["meta.nope", "meta.turns.1.text", "meta.text.x", "meta.turns.x"])
def test_a_path_that_leads_nowhere_is_said(tmp_path, key):
    with pytest.raises(KeyError):
        lookup(FIELDS, key)
    (tmp_path / "a.jsonl").write_text(json.dumps(FIELDS))
    source = make_source("jsonl", split="train", spec=str(tmp_path / "a.jsonl"), field=key)
    with pytest.raises(UserError, match=r"is missing; there are 'meta', 'a\.b', 'a'"):
        list(readable_documents(source, "raise", []))


def test_files_are_named_by_several_globs_each_once(tmp_path):
    for name in ("b.txt", "a.txt", "c,d.txt", "e[1].txt", "x.md"):
        (tmp_path / name).write_text(name)
    names = lambda spec: [path.name for path in files.find("train", spec)]
    t = str(tmp_path)
    assert names(f"{t}/b.txt,{t}/a*") == ["b.txt", "a.txt"]
    assert names((f"{t}/a.txt", f"{t}/*.txt")) == ["a.txt", "b.txt", "c,d.txt", "e[1].txt"]
    assert names(f"{t}/c,d.txt") == ["c,d.txt"] and names(f"{t}/e[1].txt") == ["e[1].txt"]
    with pytest.raises(UserError, match=r"none\.txt' matches no file"):
        names(f"{t}/a.txt,{t}/none.txt")
    with pytest.raises(UserError, match=r"is a folder; name its files: .*/[*]"):
        names(t)
    for spec in (",", " , ", ("",)):
        with pytest.raises(UserError, match=r"data\.train=.* names no file"):
            names(spec)


def test_text_may_begin_as_an_archive_does(tmp_path):
    (tmp_path / "a.csv").write_text("BZh9 text,text\nx,y\n")
    assert read(tmp_path / "a.csv") == (["y"], [])


def test_a_name_that_is_no_utf8_is_read_hashed_and_shown(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "a"}\n{')
    spec = str(tmp_path / "caf*.jsonl")
    texts, (error,) = read(tmp_path / "caf*.jsonl", "skip")
    assert texts == ["a"] and "caf\\xe9.jsonl:2: not JSON" in str(error)
    str(error).encode()
    for found in (
        make_source("jsonl", split="train", spec=spec, field="text"),
        make_source("text", split="train", spec=spec, field=""),
        read_records("files", split="train", spec=spec),
    ):
        assert len(found.fingerprint()) == 64


@pytest.mark.parametrize("suffix", [".txt", *WRITERS])
@pytest.mark.parametrize("magic", [gzip.compress, zstd.compress, lzma.compress, bz2.compress])
def test_a_packed_file_under_a_plain_name_is_named(tmp_path, suffix, magic):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(magic(b"text"))
    with pytest.raises(UserError, match=r"is packed; give it a name that ends in \."):
        if suffix == ".txt":
            source = make_source("text", split="train", spec=str(path), field="")
            list(readable_documents(source, "raise", []))
        read(path)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("packer", [".gz", ".zst", ""])
def test_an_empty_file_holds_nothing(tmp_path, suffix, packer):
    path = tmp_path / f"a{suffix}{packer}"
    path.write_bytes(PACKERS[packer](b""))
    if suffix == ".json":
        assert "not JSON" in str(read(path, "skip")[1][0])
    else:
        assert read(path) == ([], [])


def test_json_lines_under_the_name_of_json_are_read(tmp_path):
    (tmp_path / "a.json").write_text(json_lines(TEXTS))
    assert read(tmp_path / "a.json") == (TEXTS, [])


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("quoted", [False, True])
def test_blank_lines_before_a_header_are_passed_over(suffix, quoted, tmp_path):
    header = '"text","n"' if quoted else "text,n"
    body = f"\r\n\n{header}\none,1\n\ntwo,2\n"
    path = tmp_path / f"a{suffix}"
    path.write_text(body if suffix == ".csv" else body.replace(",", "\t"))

    records = list(readable(read_records("files", split="train", spec=str(path)), "raise", []))

    assert [r.fields for r in records] == [{"text": "one", "n": "1"}, {"text": "two", "n": "2"}]
    assert [r.name for r in records] == [f"{path}:4", f"{path}:6"]
