"""Short articles of Chinese are kept; what is spoilt is dropped, however short; of what it is."""

import collections
import random

import pytest

from benchmarks.quality import texts, trusted_text
from lm.curation.quality import judge, measure
from lm.curation.thresholds import THRESHOLDS
from tests.curation.judging_test import prose
from tests.curation.quality_test import CHINESE, ENGLISH

# Written for this test: as a newspaper has them, of 30 to 88 characters.
BRIEFS = [
    "港口恢复通航\n本报讯　因大风停航两天的渡船昨天上午恢复通航，三百多名旅客已经离岛。",
    "老桥下月大修（图片）\n建于一九三六年的石桥将从下月起大修，工期四个月，行人可走临时便桥。（李明摄）",
    "图书馆征集旧照片\n为了筹办县城百年展览，图书馆从今天起向市民征集旧照片，展览以后全部归还。",
    "更正\n昨日本版《渔民的冬天》一文中，船长的名字应为“陈海生”，特此更正，并向读者致歉。",
    "气象台预报\n今天夜里到明天，沿海有小雨，风力四到五级；后天转晴，早晚气温在六度上下。",
    "陶工许师傅\n他做了五十年陶器，也教了五十年徒弟。问他为什么不退休，他说：“泥还没有用完呢。”",
    "岛上的小学迎来第一位音乐老师。她是自愿来的，带来了一架旧钢琴，也带来了二十本歌谱。",
]
# As short, and no text.
JUNK = {
    "menu": "首页\n新闻\n体育\n财经\n娱乐\n汽车\n房产\n教育\n旅游\n健康\n论坛\n博客\n视频",
    "in a line": "首页 | 新闻中心 | 体育世界 | 财经要闻 | 娱乐八卦 | 汽车之家 | 房产信息",
    "teasers": "港口恢复通航，旅客已经离岛…\n老桥下月起大修，工期四个月…\n图书馆征集旧照片…",
    "slogans": "便宜机票" * 10 + "。",
    "replies": "好。\n顶！\n不错。\n支持！\n沙发。\n路过！\n谢谢。\n收藏！\n学习。\n同意！",
    "prices": "苹果 5.20 6.30 12%\n香蕉 3.10 3.90 8%\n橙子 4.40 4.90 15%\n葡萄 9.90 12.50 7%",
}


@pytest.mark.parametrize("text", BRIEFS)
def test_short_articles_of_chinese_are_kept(text):
    found = measure(text)

    assert 30 <= found["num_units"] < 88
    assert judge(found, THRESHOLDS["zh"]) is None


@pytest.mark.parametrize("name", JUNK)
def test_what_is_short_and_no_text_is_dropped_by_other_rules_than_length(name):
    bounds = {key: value for key, value in THRESHOLDS["zh"].items() if key != "num_units"}

    assert judge(measure(JUNK[name]), bounds) is not None


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", trusted_text.SPOILT)
def test_what_is_spoilt_is_dropped(kind, language):
    documents = [prose({"en": ENGLISH, "zh": CHINESE}[language], i) for i in range(20)]
    generator, spoil = random.Random(0), trusted_text.SPOILT[kind]

    found = [spoil(generator, documents, language) for _ in range(20)]

    assert all(judge(measure(text), THRESHOLDS[language]) for text in found)


def test_reasons_are_counted():
    measures = [measure(text) for text in (BRIEFS[0], CHINESE[0], CHINESE[1])]

    found = trusted_text.reasons(measures, THRESHOLDS["zh"])

    assert found == collections.Counter({"num_units_low": 2})


def test_tags_and_spaces_are_taken_off():
    assert texts.untagged("中国/ns  人民/n  １/２/m  。/w\n好/a\n") == "中国人民１/２。\n好\n"


def test_articles_begin_with_titles_behind_an_end():
    paragraphs = [
        *("一座老桥", "本报记者王明", "桥要修了。（王明摄）"),
        *("（图片）", "第一章总则", "一九三六年建成。"),
        *("港口通航", "渡船恢复通航：", "三百人离岛。"),
        "长" * 41,
        "句子。",
    ]

    strict, loose = (
        texts.articles("\n".join(paragraphs), is_strict=is_strict) for is_strict in (True, False)
    )

    assert strict == ["\n".join(paragraphs[:6]), "\n".join(paragraphs[6:])]
    assert [text.partition("\n")[0] for text in loose] == [
        *("一座老桥", "（图片）", "港口通航", "长" * 41),
    ]
    assert "\n".join(strict) == "\n".join(loose) == "\n".join(paragraphs)


def test_passages_have_so_many_sentences_each():
    assert texts.passages("One. Two! Three? Four. Five.", 2) == ["One. Two!", "Three? Four."]
