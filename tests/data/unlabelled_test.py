"""Text to make predictions for, read as it comes."""

import bz2
import gzip
import json
import lzma
import os
import sys

import pytest

from lm.data import unlabelled
from lm.formats import files
from lm.formats.fields import Record


def read(path, text_format="auto", said=None):
    from_text = lambda name, text: Record(name, {"text": text})
    say = (said if said is not None else []).append
    return list(unlabelled.read(path, text_format, 10**6, from_text, say))


TEXTS = ["Köln, 北京!", "a\tb", "{no object", "\u2028 other line breaks \x85"]
JSON_LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "text_format", "text"),
    [
        ("a.jsonl", "auto", JSON_LINES),
        ("a", "auto", "\n \n" + JSON_LINES),  # By its first line that has text.
        ("a.txt", "jsonl", JSON_LINES),
        ("a.txt", "auto", "\n".join(TEXTS)),
        ("a.txt", "auto", "\r\n".join(TEXTS) + "\r\n"),
        ("a.jsonl", "text", "\n".join(TEXTS)),
    ],
)
def test_a_file_is_what_its_suffix_or_its_first_line_says(tmp_path, name, text_format, text, mark):
    (tmp_path / name).write_bytes((mark + text).encode())

    records = read(tmp_path / name, text_format)

    assert [record.fields["text"] for record in records] == TEXTS
    first = 1 + text.startswith("\n") * 2
    assert [r.name for r in records] == [f"{tmp_path}/{name}:{first + i}" for i in range(4)]


def test_every_line_of_plain_text_is_a_record_also_an_empty_one(tmp_path):
    (tmp_path / "a.txt").write_text("x\n\ny\n")
    said = []

    assert [record.fields["text"] for record in read(tmp_path / "a.txt", said=said)] == [
        "x",
        "",
        "y",
    ]
    assert said == [f"{tmp_path}/a.txt is read as plain text, a record a line"]


def test_errors_stand_where_the_records_would(tmp_path):
    lines = [b'{"text": "x"}', b"[1]", b"\xff", b'{"text": "\\ud800"}', b"{", b'{"text": "y"}']
    (tmp_path / "a").write_bytes(b"\n".join(lines))

    found = [isinstance(item, Record) for item in read(tmp_path / "a")]

    assert found == [True, *[False] * 4, True]


@pytest.mark.parametrize("text_format", ["auto", "text", "jsonl"])
@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("text", ["word " * 50, '{"text": "word"}\n' * 2000])
def test_a_cut_archive_is_said_wherever_it_is_cut(tmp_path, text_format, packer, text):
    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}[packer]
    packed = packer(text.encode())
    for size in (1, 15, len(packed) // 2, len(packed) - 1):
        (tmp_path / f"a{suffix}").write_bytes(packed[:size])
        *_, last = read(tmp_path / f"a{suffix}", text_format)
        assert isinstance(last, files.RestUnread) and "cannot be read" in str(last)


@pytest.mark.parametrize("text_format", ["auto", "text", "jsonl"])
def test_another_encoding_is_named_in_any_format(tmp_path, text_format):
    (tmp_path / "a.txt").write_text("text", encoding="utf-16")
    (error,) = read(tmp_path / "a.txt", text_format)
    assert isinstance(error, files.RestUnread) and "is UTF-16, not UTF-8" in str(error)


def test_a_closed_standard_input_is_no_empty_one(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)

    (error,) = read(files.STDIN)

    assert isinstance(error, files.RestUnread) and "standard input is closed" in str(error)


def test_standard_input_is_read_no_further_than_is_asked_for():
    """What a pipe holds is enough for the first records; the rest may come much later."""
    before, (end, start) = os.dup(0), os.pipe()
    try:
        os.dup2(end, 0)
        os.write(start, b"first\nsecond\n")
        from_text = lambda name, text: Record(name, {"text": text})
        records = unlabelled.read(files.STDIN, "auto", 10**6, from_text, lambda line: None)

        assert next(records) == Record("-:1", {"text": "first"})
        os.write(start, b"third\n")
        os.close(start)
        assert [record.fields["text"] for record in records] == ["second", "third"]
    finally:
        os.dup2(before, 0)
        for number in (before, end):
            os.close(number)
