"""Bytes that declare no encoding: Chinese is read right or named doubtful, and no other suffers."""

import unicodedata

import pytest
from resiliparse.parse.encoding import detect_encoding

from benchmarks.quality import encodings as benchmark
from lm.curation import encodings, readers, web_text
from lm.curation.records import Lost

OTHERS = [
    (encoding, language)
    for encoding, language in benchmark.ENCODINGS
    if not encoding.startswith("utf") and not language.startswith("zh")
]


@pytest.mark.parametrize(("encoding", "language"), [("gb18030", "zh"), ("big5hkscs", "zh-Hant")])
@pytest.mark.parametrize("form", ["page", "text"])
def test_chinese_is_read_right_or_doubtful(encoding, language, form):
    share = lambda length: benchmark.shares(encoding, language, length, form, 40)

    right, wrong = share(2)
    assert right >= 0.6 and wrong <= 0.05
    right, wrong = share(4)
    assert right >= 0.95 and wrong == 0
    for length in (8, 16, 64):
        assert share(length) == (1, 0)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", ["zh", "zh-Hant", "ja", "ko", "ru", "en", "th", "ar"])
def test_utf_16_needs_no_mark(encoding, language):
    for length in (2, 8, 64):
        assert benchmark.shares(encoding, language, length, "page", 20) == (1, 0)
    if language != "ja":  # Whose commonest characters are pairs of ASCII there.
        assert benchmark.shares(encoding, language, 16, "text", 40) == (1, 0)


@pytest.mark.parametrize(("encoding", "language"), OTHERS)
def test_what_the_detector_alone_reads_right_is_read_right(encoding, language):
    ours = theirs = 0
    for length in (4, 8, 16, 64):
        for piece in benchmark.pieces(language, length, 40):
            page = benchmark.PAGE.format(piece)
            data = page.encode(encoding)
            found = web_text.decode(data).text
            ours += found == page
            theirs += data.decode(detect_encoding(data), errors="replace") == page
            is_chinese = any("\u4e00" <= x <= "\u9fff" for x in found)
            assert found == page or not is_chinese or length < 8

    assert ours >= theirs
    assert ours >= 0.75 * 160


@pytest.mark.parametrize(
    ("charset", "encoding", "text"),
    [
        ("euc-kr", "cp949", "펲시콜라와 똠방각하"),
        ("ks_c_5601-1987", "cp949", "펲시콜라와 똠방각하"),
        ("shift_jis", "cp932", "①髙島屋"),
        ("tis-620", "cp874", "ห้องสมุด…"),
        ("undefined", "utf-8", "图书馆é"),
        ("punycode", "gb18030", "学校门口的银杏树"),
        ("unicode_escape", "utf-8", "图书馆\\u4e00"),
        ("utf-7", "utf-8", "+2AA-"),
        ("utf-16", "utf-8", "图书馆"),
        ("utf-16", "gb18030", "学校门口的银杏树"),
        ("us-ascii", "utf-8", "café"),
        ("iso-8859-1", "cp1252", "“café”"),
        ("cp037", "utf-8", "图书馆"),
        ("x", "iso2022_jp", "東京の図書館"),
    ],
)
@pytest.mark.parametrize("space", ["", " "])  # Of an even and an odd number of bytes.
def test_what_is_declared_is_read_as_browsers_do(charset, encoding, text, space):
    page = f"<html><head><meta charset={charset}></head><body><p>{text}</p></body></html>{space}"

    assert web_text.decode(page.encode(encoding)).text == page


@pytest.mark.parametrize("control", ["\0", "\x0b"])
def test_a_control_character_astray_is_no_doubt_of_what_is_declared(control):
    page = f"<html><meta charset=koi8-r><body><p>{control}печё</p></body></html>"

    assert web_text.decode(page.encode("koi8-r")).text == page
    bare = page.replace("meta", "x")
    assert web_text.decode(bare.encode("koi8-r"), "koi8-r").text == bare


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_read_with_a_mark_and_without(encoding):
    for text in ("<p>图书馆</p>", "<p>\ufeff图书馆</p>", "\ufeff<p>图书馆</p>"):
        assert web_text.decode(text.encode(encoding)).text == text.removeprefix("\ufeff")


def test_what_is_as_likely_in_two_encodings_is_lost_by_name(tmp_path):
    data = AMBIGUOUS.encode("gb18030")
    other = data.decode("big5hkscs")
    (tmp_path / "a.html").write_bytes(b"<p>" + data)
    limits = web_text.make_limits(max_seconds=5.0, max_memory_bytes=2**31)

    (lost,) = readers.read("html", tmp_path / "a.html", field="", max_bytes=999, limits=limits)

    assert lost == Lost(str(tmp_path / "a.html"), "doubtful_encoding", 3 + len(data))
    assert all(unicodedata.category(x) == "Lo" for x in other)
    with pytest.raises(encodings.Doubtful, match="gb18030"):
        encodings.guess(data)


AMBIGUOUS = "海底"  # In Big5, "漆菁".
