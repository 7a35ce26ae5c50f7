"""Whatever stands in a file is a document or a loss with a name; nothing raises, nothing hangs."""

import gzip
import json
import pathlib
import time
import tracemalloc

import pytest
from backports import zstd

from lm.curation import readers, web_archives, web_text
from lm.curation.records import Found, Lost, from_input
from lm.system.bounded import BoundedFunction, Exceeded

LIMITS = web_text.make_limits(max_seconds=5.0, max_memory_bytes=2**31)
PAGE = """<html><head>{}<title>题目</title></head><body><nav><a href="/">首页</a></nav>
<main><article><h1>标题</h1><p>这是一个关于编码的故事，朱镕基也在里面。</p><pre>a = 1
    b = 2</pre></article></main></body></html>"""
MAIN = "标题\n\n这是一个关于编码的故事，朱镕基也在里面。\n\na = 1\n    b = 2"


def read(path, kind, max_bytes=10_000, field="text"):
    """What a reader yields, with places less the folder."""
    found = readers.read(kind, path, field=field, max_bytes=max_bytes, limits=LIMITS)
    cut = lambda item: item._replace(place=item.place.replace(f"{path.parent}/", ""))
    return [cut(item) for item in found]


DEEP = '{"text": ' + "[" * 100_000
A, B, LONG = b'{"text": "a"}', b'{"text": "b"}', b"x" * 20_001
NUMBER = '{"text": 1' + "0" * 5000 + "}"


PACKED = gzip.compress(b"a", mtime=0)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("text", b"", [Found("", "f")]),
        ("text", b"\xef\xbb\xbfa\r\nb", [Found("a\r\nb", "f")]),
        ("text", b"a\x00\x9f", [Lost("f", "not_utf8", 3)]),
        ("text", "a".encode("utf-16"), [Lost("f", "not_utf8", 4)]),
        ("text", b"x" * 10_001, [Lost("f", "too_long", 10_001)]),
        ("text", PACKED, [Lost("f", "packed", len(PACKED))]),
        ("jsonl", b"", []),
        ("jsonl", b'\xef\xbb\xbf{"text": "a"}', [Found("a", "f:1")]),
        ("jsonl", A + b"\r\n\r\n" + B + b"\r\n", [Found("a", "f:1"), Found("b", "f:3")]),
        ("jsonl", b'{"text": "\xff"}\n' + B, [Lost("f:1", "not_utf8", 13), Found("b", "f:2")]),
        ("jsonl", b'{"text": "\\ud800"}', [Lost("f:1", "half_surrogate", 18)]),
        ("jsonl", b'{"text": "\\u0000\xef\xbf\xbf"}', [Found("\0\uffff", "f:1")]),
        ("jsonl", b"[1]\n3", [Lost("f:1", "not_an_object", 3), Lost("f:2", "not_an_object", 1)]),
        ("jsonl", b"null", [Lost("f:1", "not_an_object", 4)]),
        ("jsonl", b'{"text": null}', [Lost("f:1", "text_is_null", 14)]),
        ("jsonl", b'{"text": ["a"]}', [Lost("f:1", "text_is_no_string", 15)]),
        ("jsonl", b'{"t": "a"}', [Lost("f:1", "no_such_field", 10, "there are 't'")]),
        ("jsonl", b'{"text": "a"', [Lost("f:1", "not_json", 12)]),
        ("jsonl", NUMBER.encode(), [Lost("f:1", "not_json", 5011)]),
        ("jsonl", DEEP.encode()[:9000], [Lost("f:1", "too_deep", 9000)]),
        ("jsonl", LONG + b"\n" + B, [Lost("f:1", "too_long", 20_001), Found("b", "f:2")]),
        ("csv", b"text,n\na,1\nbcd\n", [Found("a", "f:2"), Lost("f:3", "unequal_row", 3)]),
        ("csv", b"text,n\na,1\nb,\xe4\xb8\n", [Found("a", "f:2"), Lost("f:3", "not_utf8", 3)]),
        ("csv", b'text,n\n"c\nd",2\n', [Found("c\nd", "f:2")]),
        ("csv", b'text,n\na,1\n"b', [Found("a", "f:2"), Lost("f:3", "rest_of_file", 0)]),
        ("json", b"[]", []),
        ("json", b"", [Lost("f:1", "not_json", 0)]),
        ("json", b"[" + A + b', 30, {"text": null}]', [
            Found("a", "f[0]"), Lost("f[1]", "not_an_object", 2), Lost("f[2]", "text_is_null")]),
        ("json", b'[{"text": ["a"]}, {"t": 1}]', [
            Lost("f[0]", "text_is_no_string", 5),
            Lost("f[1]", "no_such_field", 0, "there are 't'")]),
        ("json", b'[{"text": "\\ud800"}]', [Lost("f[0]", "half_surrogate", 3)]),
        ("json", b'[{"text": "%s"}, %s]' % (LONG, A), [
            Lost("f[0]", "too_long", 20_001), Found("a", "f[1]")]),
        ("json", A + b"\n" + B + b"\n[3]", [
            Found("a", "f:1"), Found("b", "f:2"), Lost("f:3", "not_an_object", 3)]),
        ("json", b'[{"text": "a"}', [Lost("f:1", "not_json", 14)]),
        ("json", b'{"a": 1}', [Lost("f", "not_an_object", 8)]),
        ("json", b"[" * 100_000, [Lost("f", "too_deep", 100_000)]),
        ("json", "[]".encode("utf-16"), [Lost("f", "not_utf8", 6)]),
        ("html", b"", [Lost("f", "no_main_text", 0)]),
        ("html", b"%PDF-1.7\n%\xe2\xe3", [Lost("f", "no_html", 12)]),
        ("html", b"<frameset><frame src='a'></frameset>", [Lost("f", "no_main_text", 36)]),
        ("html", b"<" * 10_001, [Lost("f", "too_long", 10_001)]),
        ("warc", b"", []),
        ("warc", b"no archive at all", [Lost("f@0", "no_warc_record", 17)]),
    ],
)  # fmt: skip
def test_each_input_is_a_document_or_a_loss_with_a_name(kind, data, expected, tmp_path):
    (tmp_path / "f").write_bytes(data)

    assert read(tmp_path / "f", kind) == expected


def zstd_with_checksum(data):
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("pack", [gzip.compress, zstd_with_checksum])
@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "html", "warc"])
def test_a_packed_file_that_is_cut_or_damaged_is_a_loss(pack, kind, tmp_path):
    lines = {
        "jsonl": b'{"text": "a text %d"}\n',
        "csv": b"a text %d,1\n",
        "warc": b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: text/plain\r\n"
        b"WARC-Target-URI: http://a/%5d\r\nContent-Length: 6\r\n\r\na text\r\n\r\n",
    }
    line = lines.get(kind, b"a text %d of some length\n")
    data = b"text,n\n" * (kind == "csv") + b"".join(line % i for i in range(20_000))
    packed, suffix = pack(data), {gzip.compress: ".gz", zstd_with_checksum: ".zst"}[pack]
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0x55
    whole = tmp_path / f"whole{suffix}"
    whole.write_bytes(packed)
    num_whole = sum(isinstance(item, Found) for item in read(whole, kind, 10**7))
    assert num_whole == (20_000 if kind in lines else 1)
    for bad in (packed[: len(packed) * 2 // 3], bytes(flipped)):
        path = tmp_path / f"f{suffix}"
        path.write_bytes(bad)

        items = read(path, kind, 10**7)

        assert isinstance(items[-1], Lost)
        assert items[-1].reason in ("rest_of_file", "damaged_file")
        assert sum(isinstance(item, Found) for item in items) <= num_whole


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("gb2312", "gb18030"),
        ("gbk", "gb18030"),
        ("", "gb18030"),
        ("utf-8", "utf-8"),
        ("", "utf-16"),
        ("iso-8859-1x", "utf-8"),
        ("big5", "utf-8"),
    ],
)
def test_pages_are_read_in_the_encoding_that_they_are_in(charset, encoding):
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">'

    page = web_text.main_text(PAGE.format(meta if charset else "").encode(encoding))

    assert page.text == MAIN


def test_big5_is_read_as_declared():
    text = "這是一個關於編碼的故事，朱鎔基也在裡面。"
    html = f'<html><head><meta charset="big5"></head><body><main><p>{text}</p></main></body></html>'

    assert web_text.main_text(html.encode("big5hkscs")).text == text
    assert web_text.main_text(html.replace("big5", "x").encode("big5hkscs"), "Big5").text == text


@pytest.mark.parametrize("path", ["", "main", "main article", "div div div"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_lists_of_prose_are_read_at_any_depth_and_lists_of_links_at_none(path, language):
    prose, steps, links = {
        "en": ("It is a cake.", ["Mix the flour.", "Wait for an hour."], ["Home", "About us"]),
        "zh": ("这是一个蛋糕。", ["把面粉和匀。", "等一个小时。"], ["首页", "关于我们"]),
    }[language]
    menu = "".join(f"<li><a href='/'>{each}</a></li>" for each in links)
    items = "".join(f"<li>{each}</li>" for each in steps)
    opened = "".join(f"<{tag}>" for tag in path.split())
    closed = "".join(f"</{tag}>" for tag in reversed(path.split()))
    html = f"<body>{opened}<ul>{menu}</ul><p>{prose}</p><ul>{items}</ul>{closed}</body>"

    page = web_text.main_text(f"<meta charset=utf-8>{html}".encode())

    lines = [line.strip(" •") for line in page.text.splitlines() if line]
    assert lines == [prose, *steps]


def test_a_page_of_noise_has_no_encoding_and_one_wrong_byte_is_no_reason():
    noise = bytes(range(128, 256)) * 40
    page = PAGE.format('<meta charset="utf-8">').encode() * 20

    assert web_text.decode(b"<meta charset=utf-8>" + noise, "ascii").reason == "unknown_encoding"
    assert web_text.decode(page[:50] + b"\xff" + page[50:]).text.count("\ufffd") == 1


def record(kind="response", uri="http://a/", body=None, more="", content_type="text/html", cut=0):
    if body is None:
        body = PAGE.format("").encode()
    if kind == "response":
        body = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{more}\r\n".encode() + body
        content_type = "application/http; msgtype=response"
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\n"
    head += f"Content-Type: {content_type}\r\nContent-Length: {len(body) - cut}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def test_records_of_an_archive(tmp_path):
    good = [
        record("warcinfo", content_type="application/warc-fields", body=b"software: x\r\n"),
        record(),
        record(body=gzip.compress(PAGE.format("").encode()), more="Content-Encoding: gzip\r\n"),
        record("conversion", body="一个文本。".encode(), content_type="text/plain"),
        record(content_type="application/pdf"),
        record(body=b"%PDF-1.4"),
        record().replace(b"200 OK", b"404 No"),
        record("request", body=b"GET / HTTP/1.1\r\n\r\n", content_type="application/http"),
    ]
    expected = ["warc_warcinfo", MAIN, MAIN, "一个文本。"]
    expected += ["no_html", "no_html", "http_status", "warc_request"]
    for data in (gzip.compress(b"".join(good)), b"".join(map(gzip.compress, good))):
        (tmp_path / "a.warc.gz").write_bytes(data)

        items = read(tmp_path / "a.warc.gz", "warc")

        assert [getattr(item, "reason", None) or item.text for item in items] == expected
        starts = [sum(map(len, good[:i])) for i in range(len(good))]
        assert [item.place for item in items] == [
            f"a.warc.gz@{start} http://a/" for start in starts
        ]
        of_losses = [item.num_bytes for item in items if isinstance(item, Lost)]
        assert of_losses == [len(x) - 4 for x, y in zip(good, expected, strict=True) if "_" in y]


@pytest.mark.parametrize("content_type", ["text/html", "text/plain"])
def test_what_is_too_long_once_it_is_unpacked_is_lost_alone(content_type, tmp_path):
    packed = gzip.compress(b"<p>" + b"a " * 500_000)
    bomb = record(body=packed, more="Content-Encoding: gzip\r\n", content_type=content_type)
    (tmp_path / "a.warc").write_bytes(bomb + record())

    lost, found = read(tmp_path / "a.warc", "warc")

    assert (lost.reason, lost.num_bytes) == ("too_long", len(bomb) - 4)
    assert found.text == MAIN


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(cut=50), "wrong_content_length"),
        (record(cut=-10), "wrong_content_length"),
        (record().replace(b"Content-Length", b"Content-Longth"), "no_warc_record"),
        (record().replace(b"WARC/1.0", b"WRAC/1.0"), "no_warc_record"),
        (record(body=b"x" * 20_000), "too_long"),
    ],
)
def test_a_wrong_record_is_lost_alone(bad, reason, tmp_path):
    path = tmp_path / "a.warc"
    path.write_bytes(record() + bad + record(uri="http://b/") * 2)

    items = read(path, "warc")

    assert [item.reason for item in items if isinstance(item, Lost)] == [reason]
    # What is too long by ten bytes takes the start of the next one with it.
    assert [item.text for item in items if isinstance(item, Found)] == [MAIN] * (
        2 if b"-10" in bad or len(items) == 3 else 3
    )
    sizes = len(record()) * len([x for x in items if isinstance(x, Found)])
    lost = next(item.num_bytes for item in items if isinstance(item, Lost))
    assert path.stat().st_size - sizes - lost in range(5)  # Less the line ends behind a record.


def test_an_archive_that_is_cut_is_not_taken_for_whole(tmp_path):
    whole = record() * 30
    (tmp_path / "a.warc").write_bytes(whole[: len(whole) * 2 // 3 + 100])

    items = read(tmp_path / "a.warc", "warc")

    assert sum(isinstance(item, Found) for item in items) == 20
    assert items[-1].reason == "cut_record"
    assert items[-1].num_bytes == 100


def test_parquet(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": "a"}, {"text": None}, {"text": "x" * 11_000}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "f.parquet")

    items = read(tmp_path / "f.parquet", "parquet")

    assert items[0] == Found("a", "f.parquet:0")
    assert items[1:] == [
        Lost("f.parquet:1", "text_is_null", 0),
        Lost("f.parquet:2", "too_long", 11_000),
    ]
    missing = read(tmp_path / "f.parquet", "parquet", field="body")
    assert missing == [
        Lost(f"f.parquet:{i}", "no_such_field", 0, "there are 'text'") for i in range(3)
    ]
    data = (tmp_path / "f.parquet").read_bytes()
    (tmp_path / "f.parquet").write_bytes(data[:-20])
    assert read(tmp_path / "f.parquet", "parquet")[-1].reason == "damaged_file"


def test_a_line_is_not_read_into_memory_whole(tmp_path):
    packer = zstd.ZstdCompressor()
    with (tmp_path / "f.zst").open("wb") as file:  # 40 MB take 1 kB on the disk.
        for _ in range(40):
            file.write(packer.compress(b"x" * 1_000_000))
        file.write(packer.compress(b"\n" + A) + packer.flush())
    tracemalloc.start()

    items = read(tmp_path / "f.zst", "jsonl")

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert items == [Lost("f.zst:1", "too_long", 40_000_000), Found("a", "f.zst:2")]
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("f.gz", gzip.compress(A + b"\n") * 2, ["a", "a"]),
        ("f.gz", gzip.compress(A + b"\n") + b"\0" * 99, ["a"]),  # As tapes pad them.
        ("f.gz", gzip.compress(A + b"\n") + b"no archive", ["a", "rest_of_file"]),
        ("f.gz", gzip.compress(gzip.compress(A + b"\n")), ["packed"]),
        ("f.gz", b"", ["rest_of_file"]),
        ("f.zst", zstd.compress(A + b"\n") * 2, ["a", "a"]),
        ("f.zst", zstd.compress(A + b"\n") + b"no archive", ["a", "rest_of_file"]),
        ("\udcff\n.gz", gzip.compress(A + b"\n"), ["a"]),
    ],
)
def test_what_stands_behind_packed_lines_is_read_or_lost(name, data, expected, tmp_path):
    (tmp_path / name).write_bytes(data)

    items = read(tmp_path / name, "jsonl")

    assert [getattr(item, "reason", None) or item.text for item in items] == expected
    assert all(item.place.encode() for item in items)


def slow(seconds):
    """Burns processor time, where no other code can end it."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return "done"


def large(num_bytes):
    """Takes memory."""
    return len(bytearray(num_bytes))


def test_what_takes_too_much_is_ended_and_the_next_call_goes_on():
    bounded = {
        call: BoundedFunction(call, max_seconds=0.3, max_memory_bytes=2**30)
        for call in (slow, large)
    }

    assert bounded[slow](0.01) == "done"
    for call, argument, what in ((slow, 60, "time"), (large, 2**31, "memory")):
        with pytest.raises(Exceeded, match=what):
            bounded[call](argument)
    assert bounded[slow](0.01) == "done"
    assert bounded[large](1000) == 1000
    for each in bounded.values():
        each.close()


@pytest.mark.parametrize(
    ("call", "argument", "reason"),
    [(slow, 60, "html_exceeds_time"), (large, 2**31, "html_exceeds_memory")],
)
def test_a_page_that_takes_too_much_is_a_loss(call, argument, reason, tmp_path, monkeypatch):
    extractor = web_text.Extractor(web_text.make_limits(max_seconds=0.2, max_memory_bytes=2**30))
    hard = BoundedFunction(call, max_seconds=0.2, max_memory_bytes=2**30)
    monkeypatch.setattr(extractor, "_main_text", lambda data, charset: hard(argument))
    monkeypatch.setattr(web_archives, "_extractor", lambda limits: extractor)
    (tmp_path / "f").write_bytes(b"<p>a")

    assert read(tmp_path / "f", "html") == [Lost("f", reason, 4)]
    hard.close()


def test_losses_and_empty_texts_are_records_that_are_dropped():
    lost = from_input("a", Lost("f:1", "not_json", 7))
    empty = from_input("a", Found(" \n", "f:2"))

    assert (lost.stage, lost.reason, lost.num_bytes) == ("read", "not_json", 7)
    assert (empty.stage, empty.reason, empty.num_bytes) == ("read", "empty", 2)
    assert json.loads(json.dumps(lost.place)) == "f:1"
    assert pathlib.Path(lost.place).name == "f:1"
