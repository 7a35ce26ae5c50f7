"""Repair mends what was decoded wrongly, and leaves good text alone."""

import json
import pathlib
import random

import ftfy
import pytest

from lm.curation.repair import repair

ROOT = pathlib.Path(__file__).parent.parent.parent
MOST_USED = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说"
    "产种面而方后多定行学法所民得经"
)
MARKS = "，。、；：？！“”‘’（）《》【】—…·～￥％１２３ＡＢｃ"


def repaired(text):
    return repair(text, encoding=True, controls=True)


@pytest.mark.parametrize(
    ("spoilt", "mended"),
    [
        ("cafÃ© â€œquotedâ€\x9d", "café “quoted”"),
        ("itâ\x80\x99s", "it’s"),
        ("中文编码的问题。".encode().decode("latin-1"), "中文编码的问题。"),
        ("中文编码的问题。".encode("gb18030").decode("latin-1"), "中文编码的问题。"),
        ("Python 的中文编码。".encode("gb18030").decode("latin-1"), "Python 的中文编码。"),
        ("中文编码是什".encode().decode("gb18030"), "中文编码是什"),
        ("a\r\nb\rc\x00\x1b\x7f\x85\ufeff\uffff\tz\x0c", "a\nb\nc…\tz\x0c"),
    ],
)
def test_mends(spoilt, mended):
    assert repaired(spoilt) == mended
    assert repaired(mended) == mended


@pytest.mark.parametrize(
    "text",
    [
        "“编码”，（１２）ﬁ…　全角ＡＢＣ：％",
        "naïve résumé Ünö façade ñandú",
        "ÀÉÎÕÜ",
        "&lt;b&gt; is how <b> is written",
        "繁體中文的編碼問題。",
        "日本語のテキスト、かな。",
        "한국어 텍스트",
        "def f():\n\x0c\n    return '\\x00'\n",
        "emoji 👩‍👩‍👧 and ﷽",
    ],
)
def test_leaves_good_text_alone(text):
    assert repaired(text) == text


def test_leaves_all_of_many_chinese_paragraphs_alone():
    rng = random.Random(0)
    paragraphs = [
        "".join(rng.choice(MOST_USED if rng.random() < 0.85 else MARKS) for _ in range(n % 90 + 5))
        for n in range(3000)
    ]

    assert [p for p in paragraphs if repaired(p) != p] == []
    # The library's own settings do not.
    assert sum(ftfy.fix_text(p) != p for p in paragraphs) > 2000


def test_what_is_mended_stays_so():
    rng = random.Random(0)
    alphabet = "aZ 中文，é\x00\x85\r\n\ufeffÃ©â€™ÖÐÎÄ涓枃&lt;\u200d\ud7ff\ue000\uffff\U0001f469"
    for _ in range(2000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        assert repaired(repaired(text)) == repaired(text)


def test_leaves_code_alone():
    for path in sorted((ROOT / "lm").rglob("*.py")):
        if path.name == "repair.py":  # Its docstring has spoilt text.
            continue
        assert repaired(path.read_text()) == path.read_text()


def test_each_part_can_be_off():
    assert repair("cafÃ©\r\n", encoding=False, controls=True) == "cafÃ©\n"
    assert repair("cafÃ©\r\n", encoding=True, controls=False) == "café\r\n"
    assert json.loads(json.dumps(repair("x", encoding=False, controls=False))) == "x"
