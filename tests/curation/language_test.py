import itertools
import random
import sys

import pytest

from benchmarks.quality import encodings
from lm.curation.language import Span, chinese_script, detect

ARTICLE_1 = {  # Of the Universal Declaration of Human Rights, or its first sentence.
    "en": "All human beings are born free and equal in dignity and rights.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "yo": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "am": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "ha": "Su dai 'yan-adam, ana haifuwarsu ne duka 'yantattu, kuma kowannensu na da mutunci.",
    "zu": "Bonke abantu bazalwa bekhululekile belingana ngesithunzi nangamalungelo.",
}
SIMPLIFIED = [
    "今天的会议讨论了明年的预算，大家都同意先修好学校的屋顶。",
    "这本书写得很好，我一口气读完了，推荐给所有喜欢历史的朋友。",
    "记者从气象局了解到，未来三天南方大部分地区还有大雨。",
    "他把车停在门口，进屋喝了一杯热茶，才慢慢说出来意。",
]
TRADITIONAL = [
    "今天的會議討論了明年的預算，大家都同意先修好學校的屋頂。",
    "這本書寫得很好，我一口氣讀完了，推薦給所有喜歡歷史的朋友。",
    "記者從氣象局了解到，未來三天南方大部分地區還有大雨。",
    "他把車停在門口，進屋喝了一杯熱茶，才慢慢說出來意。",
]
ENGLISH = (
    "The committee met on Tuesday and agreed that the roof of the school must be repaired first. "
)


def test_languages_are_told_by_one_sentence():
    wrong = {code: detect(text).language for code, text in ARTICLE_1.items()}
    wrong = {code: said for code, said in wrong.items() if said != code}

    assert len(ARTICLE_1) >= 16
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("name", encodings.TEXTS)
def test_every_sentence_is_told(name):
    language, _, script = name.partition("-")
    found = [detect(sentence) for sentence in encodings.TEXTS[name].strip().split("\n")]

    assert {one.language for one in found} == {language}
    assert {one.script for one in found} == {(script or "Hans") if language == "zh" else ""}


def test_both_scripts_of_chinese_are_told():
    for script, texts in (("Hans", SIMPLIFIED), ("Hant", TRADITIONAL)):
        for text in texts:
            found = detect(text)
            assert (found.language, found.script) == ("zh", script), text
    assert chinese_script("中文") == "" and detect(ENGLISH).script == ""


@pytest.mark.parametrize(
    "text", ["", " \n", "12 345 6.78", "http://a.b/c?d=1", "....!!", "\x00\x7f", "𐌰𐌱𐌲𐌳 𐌴𐌵𐌶𐌷 " * 9]
)
def test_nothing_is_guessed(text):
    assert detect(text).language == "und"
    assert not detect(text).is_mixed


def test_chinese_without_kana_is_not_japanese():
    assert detect("青草地上").language == "zh"


def test_the_languages_of_parts_have_their_places_and_bytes():
    chinese = "".join(SIMPLIFIED)
    text = ENGLISH * 2 + "\n" + chinese

    found = detect(text)

    assert found.is_mixed
    assert [span.language for span in found.spans] == ["en", "zh"]
    boundary = found.spans[1].start
    assert abs(boundary - len(ENGLISH) * 2) <= 5
    assert found.shares["zh"] == pytest.approx(len(chinese.encode()) / len(text.encode()), abs=0.03)
    assert not detect(ENGLISH * 9 + SIMPLIFIED[0]).is_mixed
    assert detect("北京大学").spans == (Span(0, 4, "zh"),)


@pytest.mark.parametrize("text", ["", "12 345", ENGLISH, ENGLISH * 20 + "".join(SIMPLIFIED) * 9])
def test_nothing_stays_in_memory_of_a_text(text):
    first = detect(text)
    before = sys.getallocatedblocks()

    assert all(detect(text) == first for _ in range(1000))

    assert sys.getallocatedblocks() < before + 500


def test_any_text_is_cut_into_spans_that_add_up():
    generator = random.Random(0)
    likely = [
        "the ",
        "of ",
        "的",
        "是",
        "。",
        "\x00",
        "\ud800",
        "\uffff",
        "ไ",
        "\x85",
        "\r\n",
        "<b>",
    ]
    texts = [
        "".join(
            chr(generator.randrange(sys.maxunicode + 1))
            if generator.random() < 0.5
            else generator.choice(likely)
            for _ in range(generator.choice([1, 5, 50, 400]))
        )
        for _ in range(500)
    ]
    repeated = "今天天气很好。" * 3000 + ENGLISH * 500  # The detector squeezes what repeats itself.
    texts += [repeated, "a b " * 5000, *map(chr, range(0x100)), *map(chr, range(0xFFF0, 0x10000))]
    texts += [chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)]
    texts += [*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xD800, 0xE000, 64))]
    for text in texts:
        found = detect(text)

        ends = [0, *(span.end for span in found.spans)]
        assert [span.start for span in found.spans] == ends[:-1] and ends[-1] == len(text)
        assert all(a.language != b.language for a, b in itertools.pairwise(found.spans))
        assert sum(found.shares.values()) == pytest.approx(1)
