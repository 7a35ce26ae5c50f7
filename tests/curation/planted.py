"""Texts with planted duplicates, English and Chinese, the same on every run."""

import ast
import json
import pathlib
import random
import re

# Written for this test.
CHINESE = """
清晨的码头上，渔民把一筐筐带着海水味的鱼抬上岸，等候已久的小贩立刻围了过来。
她花了三年时间把祖母留下的菜谱整理成册，每一道菜都亲手试做过，并且拍下照片。
这条铁路穿过四座高山和七条大河，通车以后，从县城到省会只需要两个小时。
实验室里的灯一直亮到深夜，学生们反复检查数据，希望找出误差从哪里来。
如果明天不下雨，我们就带孩子去植物园看刚刚开放的郁金香，然后在湖边野餐。
老钟表匠戴上眼镜，轻轻打开表壳，用细小的镊子夹出一粒几乎看不见的螺丝。
根据新的规定，商店必须在门口标明营业时间，违反者将被处以罚款或者停业。
语言模型从大量文本中学习词语之间的关系，但重复的内容会让它死记硬背。
冬天的第一场雪落在古老的城墙上，远远望去，整座城市像一幅淡淡的水墨画。
图书馆决定延长周末的开放时间，因为许多读者反映，下班以后根本来不及借书。
医生建议他少喝咖啡，多走路，并且每天晚上十一点以前关掉手机上床睡觉。
村里的小学只有二十六个学生，可是他们的合唱团去年在全省比赛中得了第一名。
工程师们发现，桥梁的振动与风速有关，于是在两侧加装了几块弧形的导流板。
那本旧日记的最后一页写着一个地址，他按照地址找过去，门口已经换了招牌。
市场上的西红柿涨价了，母亲只好改做茄子，没想到全家人吃得比平时还要香。
火山爆发以后，岛上的居民全部搬走，只有一位研究鸟类的老人坚持留了下来。
"""
WORD_EDITS = (
    "lantern",
    "granite",
    "whistle",
    "harbour",
    "nineteen",
    "velvet",
    "compass",
    "thistle",
)
CHARACTER_EDITS = tuple("龙凤麒麟琵琶葡萄蝴蝶蜻蜓")


def english_words():
    """The words of docstrings of the standard library."""
    words = []
    for module in (json, pathlib, random, re):
        tree = ast.parse(pathlib.Path(module.__file__).read_text())
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, nodes)]
        words += re.findall("[A-Za-z]{2,}", " ".join(found))
    return words


def chinese_characters():
    return re.findall("[\u4e00-\u9fff]", CHINESE)


LANGUAGES = {
    "english": (english_words(), " ", WORD_EDITS),
    "chinese": (chinese_characters(), "", CHARACTER_EDITS),
}


def base(generator, language, length):
    """A text of so many units in an order that no other has."""
    vocabulary, joiner, _ = LANGUAGES[language]
    return joiner.join(generator.choice(vocabulary) for _ in range(length))


def edited(generator, language, text, num_edits):
    """The text with so many of its units replaced."""
    _, joiner, edits = LANGUAGES[language]
    units = text.split() if joiner else list(text)
    for place in generator.sample(range(len(units)), num_edits):
        units[place] = generator.choice(edits)
    return joiner.join(units)


def pairs(language, count, seed=0):
    """Pairs of a text and an edited copy, from nearly equal to hardly similar."""
    generator = random.Random(f"{language} {seed}")
    found = []
    for _ in range(count):
        text = base(generator, language, generator.randrange(80, 160))
        # Each edit spoils at most five n-grams; a unit at the end makes one.
        share = generator.choice((0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1))
        num_edits = round(share * len(text.split() if language == "english" else text))
        _, joiner, edits = LANGUAGES[language]
        other = edited(generator, language, text, num_edits) + joiner + generator.choice(edits)
        found.append((text, other))
    return found


def families(language, count, seed=0):
    """Name -> text, of many families: copies of copies, each edited once more, or not at all."""
    generator = random.Random(f"{language} {seed} families")
    texts = []
    for _ in range(count):
        members = [base(generator, language, generator.randrange(40, 160))]
        for _ in range(generator.choice((0, 0, 1, 2, 5))):
            number = generator.choice((0, 1, 1, 2, 4))
            member = edited(generator, language, generator.choice(members), number)
            members.append(member[: len(member) - generator.choice((0, 0, 0, len(member) // 7))])
        texts += members
    generator.shuffle(texts)
    return {f"{i:05d}": text for i, text in enumerate(texts)}
