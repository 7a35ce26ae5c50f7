"""Documents without number: sentences of real texts in random order, a third of them copies."""

import pathlib
import random
from collections.abc import Iterator, Sequence

from benchmarks import curation_rules
from benchmarks.quality import texts
from lm.curation.text_units import sentences

SPACE = {"en": " ", "zh": ""}
# Of a document's characters the least and the most; both languages take about 3 kB.
LENGTHS = {"en": (1000, 5000), "zh": (330, 1700)}
_PARAGRAPH = 5  # Sentences.
_REMEMBERED = 5000  # Documents, of which copies are made.


def read(folder: str) -> dict[str, list[str]]:
    """Language -> its sentences: those of `texts`, which may be fetched; "": of docstrings."""
    if not folder:
        found = (line for text in curation_rules.docstrings() for line in sentences(text))
        return {"en": sorted(set(found))}
    root = pathlib.Path(folder)
    texts.fetch(root)
    addresses = [path.read_text() for path in sorted((root / "congress").glob("*.txt"))]
    whole = {"en": "\n\n".join(addresses), "zh": (root / "news.txt").read_text()}
    return {language: sorted(set(sentences(text))) for language, text in whole.items()}


def documents(of: Sequence[str], language: str, lengths: tuple[int, int]) -> Iterator[str]:
    """Yields documents for ever; every third is a copy of another with at most 1 % of it changed.

    Args:
      of: sentences.
      language: "en" or "zh".
      lengths: of a document's characters about the least and the most.
    """
    generator = random.Random(language)
    recent: list[str] = []
    while True:
        yield (text := _made(generator, of, language, lengths))
        recent.append(text)
        yield (other := _made(generator, of, language, lengths))
        recent.append(other)
        del recent[:-_REMEMBERED]
        yield _edited(generator, generator.choice(recent))


def _made(
    generator: random.Random, of: Sequence[str], language: str, lengths: tuple[int, int]
) -> str:
    size, found = generator.randint(*lengths), []
    while size > 0:
        found.append(generator.choice(of))
        size -= len(found[-1])
    starts = range(0, len(found), _PARAGRAPH)
    return "\n\n".join(SPACE[language].join(found[at : at + _PARAGRAPH]) for at in starts)


def _edited(generator: random.Random, text: str) -> str:
    characters = list(text)
    for place in generator.sample(
        range(len(text)), generator.randrange(max(1, len(text) // 100) + 1)
    ):
        characters[place] = generator.choice(text)
    return "".join(characters)
