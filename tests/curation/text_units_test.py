import random
import sys
import unicodedata

import pytest

from lm.curation.text_units import ngrams, normalized, sentences, unit_spans, units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't use GPT模型 2.0!", ["Don't", "use", "GPT", "模", "型", "2", "0"]),
        ("l’homme qu'on 'quotes'", ["l’homme", "qu'on", "quotes"]),
        ("snake_case, e-mail", ["snake", "case", "e", "mail"]),
        ("2024年5月", ["2024", "年", "5", "月"]),
        ("ＧＰＴ４を使うﾃﾞｰﾀ", ["ＧＰＴ４", "を", "使", "う", "ﾃﾞ", "ｰ", "ﾀ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("हिन्दी में लिखा", ["हिन्दी", "में", "लिखा"]),
        ("می‌روم خانه", ["می‌روم", "خانه"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("ສະບາຍ", ["ສ", "ະ", "ບ", "າ", "ຍ"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("葛󠄀飾", ["葛󠄀", "飾"]),
        ("𠮷野家 𝒙𝒚", ["𠮷", "野", "家", "𝒙𝒚"]),
        ("ཐམས་ཅད", ["ཐམས", "ཅད"]),
        ("naïve nai\u0308ve co\u00adop", ["naïve", "nai\u0308ve", "co\u00adop"]),
        ("😀 — …… 。", []),
        ("", []),
    ],
)
def test_units_are_as_in_this_table(text, expected):
    assert units(text) == expected


def some_text(generator, length):
    """Random characters: of all, and of those where scripts and marks meet."""
    near = "aB1 .'’\u200d\u00ad\u0301的か\u3099ทีក្မ\u1031ि़\n。_"
    return "".join(
        generator.choice(near)
        if generator.random() < 0.7
        else chr(generator.randrange(sys.maxunicode + 1))
        for _ in range(length)
    )


def is_letter(character):
    # Digits of old computers' screens count as the symbols among which they stand.
    is_symbol = 0x1F000 <= ord(character) < 0x20000
    return (character.isalpha() or character.isdecimal()) and not is_symbol


def test_every_letter_and_digit_stands_in_one_unit_and_nothing_else_stands_alone():
    generator = random.Random(0)
    for text in [chr(n) for n in range(0x20, 0x30000)] + [
        some_text(generator, 60) for _ in range(300)
    ]:
        spans = unit_spans(text)

        assert [text[start:end] for start, end in spans] == units(text)
        covered = {place for start, end in spans for place in range(start, end)}
        letters = {place for place, character in enumerate(text) if is_letter(character)}
        assert letters <= covered, ascii(text)
        assert not any(text[place].isspace() for place in covered)


def test_normalized_forgets_case_width_and_composition():
    same = [
        ("ＡＢＣ", "abc"),
        ("Straße", "STRASSE"),
        ("don’t", "DON'T"),
        ("nai\u0308ve", "naïve"),
        ("ﾃﾞｰﾀ", "データ"),
        ("co\u00adop\u200b", "coop"),
        ("，１２。", ",12。"),
        ("ΣΑΣ", "σας"),
    ]
    for one, other in same:
        assert normalized(one) == normalized(other)
    assert normalized("汉字") != normalized("漢字")
    assert normalized("résumé") != normalized("resume")


def test_normalized_twice_is_normalized_once_and_composed():
    generator = random.Random(0)
    texts = [chr(n) for n in range(sys.maxunicode + 1) if n < 0x30000 or n >= 0xE0000]
    for text in texts + [some_text(generator, 60) for _ in range(300)]:
        once = normalized(text)
        assert normalized(once) == once, ascii(text)
        assert unicodedata.is_normalized("NFKC", once), ascii(text)


def test_ngrams_are_runs_of_items():
    assert ngrams("abcd", 3) == [("a", "b", "c"), ("b", "c", "d")]
    assert ngrams(["a", "b"], 2) == [("a", "b")]
    assert ngrams(["a"], 2) == [] == ngrams([], 1)
    assert len(ngrams(range(1000), 13)) == 988


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Hi!" he said. 你好。再见', ['Hi!"', "he said.", "你好。", "再见"]),
        (
            "It costs 3.14 e.g. here, at x.com. Yes?! No.",
            ["It costs 3.14 e.g. here, at x.com.", "Yes?!", "No."],
        ),
        ("He wrapped\nhis line. Then\nhe left.", ["He wrapped\nhis line.", "Then\nhe left."]),
        ("Title\n\nBody text\n  \nMore.", ["Title", "Body text", "More."]),
        ("One.\n\nand two.", ["One.", "and two."]),
        ("他问：“好吗？”我说：“好！”", ["他问：“好吗？”", "我说：“好！”"]),
        ("他……走了。你好?好!", ["他……走了。", "你好?", "好!"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है።"[:-1] + "।"]),
        ("هل هذا؟ نعم.", ["هل هذا؟", "نعم."]),
        ("ሰላም። እንዴት ነህ፧", ["ሰላም።", "እንዴት ነህ፧"]),
        ("See http://a.b/?q=1 now.", ["See http://a.b/?q=1 now."]),
        ("", []),
        (" \n\n ", []),
        ("...", ["..."]),
    ],
)
def test_sentences_are_as_in_this_table(text, expected):
    assert sentences(text) == expected


def test_sentences_lose_nothing_but_white_space():
    generator = random.Random(1)
    for _ in range(300):
        text = some_text(generator, 80)
        assert "".join("".join(sentences(text)).split()) == "".join(text.split())
