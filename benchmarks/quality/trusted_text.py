r"""How much trusted text do the thresholds of quality drop, and how much of what is spoilt?

Command:   python -m benchmarks.quality.trusted_text runs/texts
Hardware:  one CPU core, two minutes.
Needs:     npm, pip and a network, the first time.

Documents are numbered. Bounds that are set by trusted text are set by the even ones; what counts is
what is dropped of the odd ones, which had no say. --thresholds=FILE.json judges by others. The last
lines of a language are of texts of the odd half that are spoilt in ways that the rules are for.
"""

import argparse
import collections
import json
import pathlib
import random
import sys
from collections.abc import Callable, Mapping, Sequence

from benchmarks.quality import texts
from lm.curation.quality import judge, measure
from lm.curation.text_units import sentences
from lm.curation.thresholds import THRESHOLDS

MOST_DROPPED = 0.02  # Of trusted text, of either language.
NUM_SPOILT = 400  # Of each kind.
_SPACE = {"en": " ", "zh": ""}
_MARKS = {"en": ".", "zh": "。"}
_MORE = {"en": "... [more]", "zh": "……[更多]"}
_LICENCE = {
    "en": "Copyright 2005 All rights reserved | Contact | Site map",
    "zh": "版权所有 未经许可不得转载 | 关于我们 | 联系方式 | 网站地图",
}


def main(argv: Sequence[str]) -> int:
    """Prints the tables; the exit code is 1 where more than MOST_DROPPED is dropped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="runs/texts", type=pathlib.Path)
    parser.add_argument("--thresholds", type=pathlib.Path, help="JSON, as quality.thresholds")
    args = parser.parse_args(argv[1:])
    texts.fetch(args.folder)
    thresholds = json.loads(args.thresholds.read_bytes()) if args.thresholds else THRESHOLDS
    most = 0.0
    for language, documents in trusted(args.folder).items():
        measures = [measure(text) for text in documents]
        bounds = thresholds[language]
        print(f"{language}: {len(documents):,} trusted documents")
        for half, found in (("even", measures[::2]), ("odd", measures[1::2])):
            dropped = reasons(found, bounds)
            share = sum(dropped.values()) / len(found)
            print(f"  {half} half: {share:.2%} of {len(found):,} dropped: {dict(dropped)}")
        most = max(most, share)
        _print_bounds(measures, bounds)
        _print_spoilt(documents[1::2], language, bounds)
    pieces = texts.articles((args.folder / "news.txt").read_text(), is_strict=False)
    dropped = reasons(map(measure, pieces[1::2]), thresholds["zh"])
    share = sum(dropped.values()) / len(pieces[1::2])
    print(f"zh, in pieces, odd half: {share:.2%} of {len(pieces[1::2]):,} dropped: {dict(dropped)}")
    return int(most > MOST_DROPPED)


def trusted(folder: pathlib.Path) -> dict[str, list[str]]:
    """Language -> its documents, in their order."""
    addresses = [path.read_text() for path in sorted((folder / "congress").glob("*.txt"))]
    return {
        "en": [passage for text in addresses for passage in texts.passages(text, 12)],
        "zh": texts.articles((folder / "news.txt").read_text()),
    }


def reasons(measures, bounds) -> collections.Counter:
    """Why documents of these measures are dropped, and how many."""
    found = collections.Counter(judge(each, bounds) for each in measures)
    del found[None]
    return found


def _print_bounds(measures, bounds):
    print(f"  {'bound':34}{'alone it drops of the even half':>34}{'odd':>8}")
    for name, (least, most) in bounds.items():
        shares = [
            sum(judge(each, {name: (least, most)}) is not None for each in half) / len(half)
            for half in (measures[::2], measures[1::2])
        ]
        if any(shares):
            print(f"  {f'{name} {least} {most}':34}{shares[0]:34.2%}{shares[1]:8.2%}")


def _print_spoilt(documents, language, bounds):
    for kind, spoil in SPOILT.items():
        generator = random.Random(f"{kind} {language}")
        found = [spoil(generator, documents, language) for _ in range(NUM_SPOILT)]
        dropped = reasons(map(measure, found), bounds)
        print(f"  spoilt: {kind:24}{sum(dropped.values()) / NUM_SPOILT:8.1%} dropped")


def _words(generator, documents, count):
    """So many phrases of documents: without marks, of 12 characters at most."""
    found = []
    while len(found) < count:
        text = generator.choice(documents)
        start = generator.randrange(len(text))
        part = text[start : start + generator.randint(2, 12)].split("\n")[0]
        part = "".join(x for x in part if x.isalpha() or x == " ").strip()
        found += [part] if part else []
    return found


def _prose(generator, documents, least=1, most=4):
    """A few sentences of one document."""
    found = sentences(generator.choice(documents))
    count = generator.randint(least, most)
    start = generator.randrange(max(1, len(found) - count))
    return found[start : start + count]


def _menu(generator, documents, language):
    return "\n".join(_words(generator, documents, generator.randint(8, 60)))


def _menu_in_a_line(generator, documents, language):
    return generator.choice(" |·").join(_words(generator, documents, generator.randint(8, 60)))


def _menu_and_prose(generator, documents, language):
    lines = _words(generator, documents, generator.randint(8, 40))
    return "\n".join([*lines, _SPACE[language].join(_prose(generator, documents))])


def _headlines(generator, documents, language):
    lines = [generator.choice(documents).split("\n")[0][:40].rstrip(".。！？") for _ in range(20)]
    return "\n".join(f"· {line} (0{generator.randint(1, 9)}-12)" for line in lines)


def _teasers(generator, documents, language):
    starts = [_prose(generator, documents, 1, 1)[0][:25] for _ in range(generator.randint(4, 12))]
    return "\n".join(start + generator.choice((_MORE[language], "…")) for start in starts)


def _phrase_again(generator, documents, language):
    phrase = _SPACE[language].join(_words(generator, documents, 2))
    text = _SPACE[language].join(_prose(generator, documents))
    return text + _SPACE[language].join([phrase] * generator.randint(20, 60)) + _MARKS[language]


def _paragraph_again(generator, documents, language):
    text = _SPACE[language].join(_prose(generator, documents, 2, 5))
    return "\n".join([text] * generator.randint(2, 5))


def _table(generator, documents, language):
    number = lambda: f"{generator.uniform(1, 9999):.{generator.randint(0, 2)}f}"
    lines = _words(generator, documents, generator.randint(8, 30))
    return "\n".join(f"{line} {number()} {number()} {number()}" for line in lines)


def _tags(generator, documents, language):
    tags = " ".join(f"#{word}" for word in _words(generator, documents, generator.randint(15, 40)))
    return _prose(generator, documents, 1, 1)[0] + "\n" + tags


def _page_without_text(generator, documents, language):
    lines = _words(generator, documents, generator.randint(5, 25))
    return "\n".join([*lines, _LICENCE[language]])


def _exclamations(generator, documents, language):
    words = _words(generator, documents, generator.randint(10, 40))
    return "\n".join(word[:4] + generator.choice("!.！") for word in words)


def _one_sentence(generator, documents, language):
    return _prose(generator, documents, 1, 1)[0][:30]


Spoil = Callable[[random.Random, Sequence[str], str], str]
SPOILT: Mapping[str, Spoil] = {
    "menu": _menu,
    "menu in a line": _menu_in_a_line,
    "menu and some prose": _menu_and_prose,
    "headlines": _headlines,
    "teasers": _teasers,
    "phrase again and again": _phrase_again,
    "paragraph again": _paragraph_again,
    "table of numbers": _table,
    "sentence and tags": _tags,
    "page without text": _page_without_text,
    "exclamations": _exclamations,
    "beginning of a sentence": _one_sentence,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv))
