import itertools
import pathlib
import random
import re
import sysconfig
import textwrap

import pytest

from lm.curation.quality import SIDES, calibrate, is_hard_wrapped, judge, measure
from lm.curation.thresholds import THRESHOLDS
from lm.errors import UserError

ENGLISH = [
    "The ferry leaves the island at seven in the morning and comes back before dark. ",
    "Most people who live there have a boat of their own, and they use it to fish. ",
    "In winter the wind is so strong that nothing can land for days. ",
    "My grandmother kept a box of candles, flour and salt for such weeks. ",
    "She used to say that the sea gives and takes, and that a full shelf is the best prayer. ",
    "When the storm of that year was over, half of the roofs were gone. ",
]
CHINESE = [
    "清晨七点，渡船从岛上开出，天黑以前再回来。",
    "住在那里的人多半有自己的小船，用来打鱼，也用来走亲戚。",
    "冬天的风很大，有时候一连几天谁也靠不了岸。",
    "为了这样的日子，外婆总是备着一箱蜡烛、面粉和盐。",
    "她常说，海给人东西，也拿走东西，架子上放满了，比什么祈祷都好。",
    "那一年的风暴过去以后，村里有一半的屋顶不见了。",
]
PROSE = {
    "en": "\n".join("".join(ENGLISH[place : place + 2]).strip() for place in (0, 2, 4)),
    "zh": "\n".join("".join(CHINESE[place : place + 2]) for place in (0, 2, 4)),
}


def test_measures_are_as_in_this_table():
    text = "# The cat, 12 of them…\n- Be here!\n\n- Be here!"

    found = measure(text)

    expected = {
        "num_units": 9,  # The cat 12 of them Be here Be here
        "mean_unit_length": 26 / 9,
        "alphabetic_units": 8 / 9,
        "stop_words": 1,  # Of; The and Be are not as they are in the list.
        "hashes_per_unit": 1 / 9,
        "ellipses_per_unit": 1 / 9,
        "bullet_lines": 2 / 3,
        "ellipsis_lines": 1 / 3,
        "end_mark_lines": 1,
        "short_lines": 1,
        "line_ends_per_unit": 2 / 9,
        "duplicate_lines": 1 / 3,
        "duplicate_line_characters": 10 / len(text),
        "duplicate_paragraphs": 0,
        "top_2_grams": 2 * len("Be here") / len(text),
        "top_3_grams": 0,
        "num_sentences": 1,  # Lines of two units are not counted.
        "curly_brackets": 0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(found) == set(SIDES)


def test_measures_of_chinese_are_as_in_this_table():
    text = "我们在2024年……\n好好好好好好好！（记者王明）\n图三"

    found = measure(text)

    expected = {
        "num_units": 18,
        "mean_unit_length": 21 / 18,
        "alphabetic_units": 17 / 18,
        "stop_words": 2,  # 在 年
        "ellipses_per_unit": 1 / 18,
        "end_mark_lines": 2 / 3,
        "top_2_grams": 6 * 3 / len(text),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", " \n\n ", "\x00", "。。。。", "😀", "a", "\n" * 1000, "{" * 99]
)
def test_any_text_is_measured(text):
    found = measure(text)

    assert set(found) == set(SIDES)
    assert all(judge(found, bounds) is not None for bounds in THRESHOLDS.values())


def brute_force(units, n):
    """Gopher's share as its appendix says it: go from left to right, never over a unit twice."""
    seen, place, characters = set(), 0, 0
    while place + n <= len(units):
        ngram = tuple(units[place : place + n])
        if ngram in seen:
            characters += sum(map(len, ngram))
            place += n
        else:
            seen.add(ngram)
            place += 1
    return characters


def test_repetition_is_that_of_brute_force():
    generator = random.Random(0)
    for _ in range(200):
        size = generator.randint(1, 120)
        text = "".join(
            generator.choice("天地玄黄宇宙洪荒日月" * 2 + "寒来暑往秋收冬藏") for _ in range(size)
        )
        text += text[: generator.randint(0, 60)]

        found = measure(text)

        for n in range(5, 11):
            expected = brute_force(text, n) / len(text)
            assert found[f"duplicate_{n}_grams"] == pytest.approx(expected)
        for n in (2, 3, 4):
            places = list(zip(*(text[i:] for i in range(n)), strict=False))
            most = max(map(places.count, places), default=0)
            expected = most * (2 * n - 1) / len(text) if most > 1 else 0
            assert found[f"top_{n}_grams"] == pytest.approx(expected)


BAD = {
    "num_units_low": {"en": ENGLISH[0] * 2, "zh": CHINESE[0]},
    "stop_words_low": {"en": PROSE["en"].upper(), "zh": "春夏秋冬，" * 5 + PROSE["en"].upper()},
    "alphabetic_units_low": {
        language: text + " ".join(map(str, range(100, 200))) + "."
        for language, text in PROSE.items()
    },
    "hashes_per_unit_high": {language: text + "#" * 60 for language, text in PROSE.items()},
    "ellipsis_lines_high": {
        language: re.sub("[.。]\n", "…\n", text) for language, text in PROSE.items()
    },
    "end_mark_lines_low": {
        language: re.sub(r"[.。]\s*", "\n", text).strip() for language, text in PROSE.items()
    },
    "duplicate_lines_high": {
        "en": PROSE["en"] + "\n\n" + "\n".join(["Read more about this place now."] * 4),
        "zh": PROSE["zh"] + "\n\n" + "\n".join(["更多内容请看这里。"] * 4),
    },
    "top_2_grams_high": {
        "en": PROSE["en"] + " Cheap flights" * 30 + ".",
        "zh": PROSE["zh"] + "便宜" * 60 + "。",
    },
    "duplicate_10_grams_high": {
        language: text + "\n" + text[: len(text) // 2] + "." for language, text in PROSE.items()
    },
    "lorem_ipsum_high": {language: text + " Lorem ipsum." for language, text in PROSE.items()},
}


@pytest.mark.parametrize(("reason", "language"), [*itertools.product(BAD, PROSE)])
def test_bad_text_is_dropped_for_its_reason(reason, language):
    measures = measure(BAD[reason][language])
    name = reason.rpartition("_")[0]
    thresholds = THRESHOLDS[language]

    assert judge(measures, {name: thresholds[name]}) == reason
    assert judge(measures, thresholds) is not None


def test_prose_passes_wrapped_or_not():
    for language, text in PROSE.items():
        assert judge(measure(text), THRESHOLDS[language]) is None, language
    wrapped = "\n\n".join(textwrap.fill(part, 66) for part in PROSE["en"].split("\n"))
    assert is_hard_wrapped(wrapped) and not is_hard_wrapped(PROSE["en"])
    assert judge(measure(wrapped), THRESHOLDS["en"]) is None
    assert measure(wrapped)["end_mark_lines"] == 1


def test_published_thresholds_of_english_words_drop_all_chinese():
    """As Gopher's do: that each language has its own is no luxury."""
    assert judge(measure(PROSE["zh"]), THRESHOLDS["en"]) == "mean_unit_length_low"


def test_lists_and_poems_are_not_wrapped_text():
    assert not is_hard_wrapped("\n".join(f"- item {n}" for n in range(40)))
    assert not is_hard_wrapped("床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。\n" * 3)
    assert not is_hard_wrapped("\n".join(ENGLISH * 2))
    assert not is_hard_wrapped("\n".join("a line of it " * (n % 4 + 1) for n in range(40)))


def test_licences_of_python_are_prose():
    """Of this machine's Python: text of lawyers, wrapped, which line rules would drop."""
    path = pathlib.Path(sysconfig.get_paths()["stdlib"], "LICENSE.txt")
    if not path.exists():
        pytest.skip("this Python has no licence beside its library")
    text = path.read_text(encoding="utf-8")
    line_rules = {"end_mark_lines": THRESHOLDS["en"]["end_mark_lines"]}
    assert is_hard_wrapped(text)
    assert judge(measure(text), line_rules) is None


def test_a_threshold_of_no_measure_is_refused():
    with pytest.raises(UserError, match="no measure 'num_words'"):
        judge(measure("a"), {"num_words": (1, None)})


def trusted(generator, count):
    return [
        {name: generator.gauss(0, 1) if n % 3 else 0.0 for n, name in enumerate(SIDES)}
        for _ in range(count)
    ]


@pytest.mark.parametrize("max_drop", [0, 0.01, 0.1])
def test_calibrated_thresholds_drop_few_of_what_is_trusted_and_no_fewer_than_asked(max_drop):
    texts = trusted(random.Random(0), 2000)

    thresholds = calibrate(texts, max_drop)

    dropped = sum(judge(measures, thresholds) is not None for measures in texts)
    assert dropped <= max_drop * 2000
    assert dropped > max_drop * 2000 * 0.7 or max_drop == 0
    for name, (least, most) in thresholds.items():
        assert (least is None, most is None) == (SIDES[name] == "high", SIDES[name] == "low")


def test_calibration_needs_texts():
    for texts, max_drop in (([], 0.01), (trusted(random.Random(0), 3), 1.5)):
        with pytest.raises(UserError, match="trusted"):
            calibrate(texts, max_drop)


def test_defaults_name_measures_only():
    for thresholds in THRESHOLDS.values():
        assert set(thresholds) <= set(SIDES)
        assert len(thresholds) > 20
