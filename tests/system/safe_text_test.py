import unicodedata

import pytest

from lm.system import safe_text


def test_no_character_that_moves_or_reorders_passes():
    every = "".join(map(chr, range(0x11000))) + "".join(map(chr, range(0xE0000, 0xE0200)))
    ordering = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

    passed = set(safe_text.escaped(every))

    assert not {c for c in passed if unicodedata.bidirectional(c) in ordering}
    assert {c for c in passed if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} == {
        "\n",
        "\t",
    }
    assert passed > set("aé☃中ע\u200d\xa0")


def test_escapes_say_what_was_there():
    text = "a\x1b[2Jb\u202ec\udcff"

    assert safe_text.escaped(text) == "a\\x1b[2Jb\\u202ec\\udcff"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://me:pw@host/a?b", "https://<redacted>@host/a?b"),
        ("at 'https://me:p@w:x@host/a' it", "at 'https://<redacted>@host/a' it"),
        ("https://token@host", "https://<redacted>@host"),
        ("https://host/@name me@host gs://b/c", "https://host/@name me@host gs://b/c"),
    ],
)
def test_no_password_of_a_url_passes(text, shown):
    assert safe_text.redacted(text) == shown


def test_an_error_is_one_line():
    assert safe_text.one_line("a\nb\u2028c https://x:y@z \u202e") == (
        "a b c https://<redacted>@z \\u202e"
    )


def test_of_a_very_long_error_both_ends_are_left():
    line = safe_text.one_line(f"a.csv:2: {'x' * 5000} is no label; take kind=multi")
    assert line.startswith("a.csv:2: xxx") and line.endswith(" is no label; take kind=multi")
    assert " [3,038 characters] " in line and len(line) < 2100
    short = f"{'x' * 1000} is short"
    assert safe_text.one_line(short) == short
