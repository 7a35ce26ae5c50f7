"""Text -> numbers that say how much it reads like prose, and whether numbers pass thresholds.

The rules are those of Gopher (Rae et al. 2021, appendix A.1.1), C4 (Raffel et al. 2020, section
2.2) and FineWeb (Penedo et al. 2024, section 3.6), with units in place of words, so that they mean
something in every language; `lm.curation.thresholds` has their values.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, pairwise

from lm.curation.text_units import CLOSING, END_MARKS, ngrams, sentences, units
from lm.errors import UserError

# Gopher's of English; of Chinese those of its commonest characters that FineWeb2's list has, too.
STOP_WORDS = frozenset(
    [
        "the",
        "be",
        "to",
        "of",
        "and",
        "that",
        "have",
        "with",
        *"的年在月是和日了於為有被人中为他與後也而由",
    ]
)
# Which side of each number is that of bad text.
SIDES = {
    "num_units": "low",
    "mean_unit_length": "both",
    "alphabetic_units": "low",
    "stop_words": "low",
    "hashes_per_unit": "high",
    "ellipses_per_unit": "high",
    "bullet_lines": "high",
    "ellipsis_lines": "high",
    "end_mark_lines": "low",
    "short_lines": "high",
    "line_ends_per_unit": "high",
    "duplicate_lines": "high",
    "duplicate_line_characters": "high",
    "duplicate_paragraphs": "high",
    "duplicate_paragraph_characters": "high",
    "top_2_grams": "high",
    "top_3_grams": "high",
    "top_4_grams": "high",
    "duplicate_5_grams": "high",
    "duplicate_6_grams": "high",
    "duplicate_7_grams": "high",
    "duplicate_8_grams": "high",
    "duplicate_9_grams": "high",
    "duplicate_10_grams": "high",
    "num_sentences": "low",
    "lorem_ipsum": "high",
    "curly_brackets": "high",
}
_SHORT = 30  # Characters of a line (FineWeb).
_FEW = 5  # Units of a line of which C4 counts no sentences.
_BULLETS = tuple("•‣⁃◦●○■□▪▫·‧-*")
_ELLIPSES = ("...", "…")
_END_MARKS = frozenset(END_MARKS)
_AFTER_END = CLOSING + " \t\r\u3000"
_IN_BRACKETS = re.compile(r"[(（][^()（）]{1,40}[)）]\Z")  # Who reports, behind the last full stop.
_PARAGRAPH = re.compile(r"\n\s*\n")


def measure(
    text: str,
    stop_words: Collection[str] = STOP_WORDS,
    split: Callable[[str], Sequence[str]] = units,
) -> dict[str, float]:
    """Text -> the numbers that SIDES names; an empty text has 0 of everything.

    `split` cuts a line into what counts as its units.

    Counts are num_units, num_sentences (in lines of five units that an end mark ends, as C4 counts
    them), stop_words (different ones), lorem_ipsum and curly_brackets. mean_unit_length is in
    characters, *_per_unit per unit; *_lines and *_paragraphs are shares of those that are not
    blank, *_characters and *_grams of the text's characters. Lines of hard-wrapped text are its
    paragraphs.
    """
    paragraphs = [part for part in _PARAGRAPH.split(text) if part and not part.isspace()]
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if is_hard_wrapped(text):
        lines = [" ".join(part.split("\n")) for part in paragraphs]
    units_of_lines = [split(line) for line in lines]
    words = list(chain.from_iterable(units_of_lines))
    num_units, num_lines, num_characters = len(words) or 1, len(lines) or 1, len(text) or 1
    stripped = [line.strip() for line in lines]
    ended = [has_end(line) for line in stripped]
    duplicate_lines, line_characters = _duplicates(lines)
    duplicate_paragraphs, paragraph_characters = _duplicates(paragraphs)
    return {
        "num_units": len(words),
        "mean_unit_length": sum(map(len, words)) / num_units,
        "alphabetic_units": (len(words) - sum(map(str.isdecimal, words))) / num_units,
        "stop_words": len(set(words).intersection(stop_words)),
        "hashes_per_unit": text.count("#") / num_units,
        # Two dots of three are one ellipsis in Chinese.
        "ellipses_per_unit": (text.count("...") + text.count("…") - text.count("……")) / num_units,
        "bullet_lines": sum(line.startswith(_BULLETS) for line in stripped) / num_lines,
        "ellipsis_lines": sum(line.endswith(_ELLIPSES) for line in stripped) / num_lines,
        "end_mark_lines": sum(ended) / num_lines,
        "short_lines": sum(len(line) <= _SHORT for line in lines) / num_lines,
        "line_ends_per_unit": max(0, len(lines) - 1) / num_units,
        "duplicate_lines": duplicate_lines / num_lines,
        "duplicate_line_characters": line_characters / num_characters,
        "duplicate_paragraphs": duplicate_paragraphs / (len(paragraphs) or 1),
        "duplicate_paragraph_characters": paragraph_characters / num_characters,
        **{name: count / num_characters for name, count in _repetition(words).items()},
        "num_sentences": sum(
            len(sentences(line))
            for line, has_end, of_line in zip(stripped, ended, units_of_lines, strict=True)
            if has_end and len(of_line) >= _FEW
        ),
        "lorem_ipsum": text.lower().count("lorem ipsum"),
        "curly_brackets": text.count("{"),
    }


def judge(
    measures: Mapping[str, float],
    thresholds: Mapping[str, tuple[float | None, float | None]],
) -> str | None:
    """Numbers and (least, most) by their names -> the first that is out of bounds, or None.

    "num_units_low" is too few, "top_2_grams_high" too many; None of a bound is no bound.

    Raises:
      UserError: a threshold is of no such number.
    """
    for name, (least, most) in thresholds.items():
        if name not in measures:
            raise UserError(f"there is no measure {name!r}; choose from {', '.join(measures)}")
        if least is not None and measures[name] < least:
            return f"{name}_low"
        if most is not None and measures[name] > most:
            return f"{name}_high"
    return None


def calibrate(
    trusted: Sequence[Mapping[str, float]], max_drop: float = 0.01
) -> dict[str, tuple[float | None, float | None]]:
    """Numbers of texts that are known to be good -> thresholds that drop few of those.

    Each bound lies at the same quantile of its number, the strictest at which all bounds together
    drop at most `max_drop` of the texts.

    Raises:
      UserError: there are no texts, or the share is not one.
    """
    if not trusted or not 0 <= max_drop < 1:
        raise UserError(
            f"thresholds need trusted texts and a share of them to drop from 0 to 1, not "
            f"{len(trusted)} texts and {max_drop}"
        )
    ranked = {name: sorted(measures[name] for measures in trusted) for name in SIDES}

    def thresholds(rank):
        return {
            name: (
                None if SIDES[name] == "high" else values[rank],
                None if SIDES[name] == "low" else values[-1 - rank],
            )
            for name, values in ranked.items()
        }

    low, high = 0, min(int(max_drop * len(trusted)) + 1, len(trusted))  # low drops few enough.
    while high - low > 1:
        middle = (low + high) // 2
        bounds = thresholds(middle)
        dropped = sum(judge(measures, bounds) is not None for measures in trusted)
        low, high = (middle, high) if dropped <= max_drop * len(trusted) else (low, middle)
    return thresholds(low)


def is_hard_wrapped(text: str) -> bool:
    """Whether lines end because they are full: as source code's comments, mails, old books.

    Of the lines that another one follows at once, at least four, four fifths are nearly as long as
    the longest, which is that of a page, and most do not end a sentence.
    """
    lines = [line.rstrip() for line in text.split("\n")]
    inner = [line for line, following in pairwise(lines) if line and following]
    if len(inner) < 4:
        return False
    lengths = sorted(map(len, inner))
    longest = lengths[int(0.95 * (len(lengths) - 1))]
    if not 30 <= longest <= 100:
        return False
    num_full = sum(length >= 0.75 * longest for length in lengths)
    num_ended = sum(map(has_end, inner))
    return num_full >= 0.8 * len(inner) and num_ended < 0.5 * len(inner)


def has_end(line):
    """Whether an end mark ends a line: 'He "left."', '他走了。（记者王明）'; not 'Menu'."""
    if line.rstrip(_AFTER_END)[-1:] in _END_MARKS:
        return True
    return line.endswith((")", "）")) and _IN_BRACKETS.sub("", line).rstrip()[-1:] in _END_MARKS


def _duplicates(parts):
    """How many parts stood before already, and their characters."""
    if len(seen := set(parts)) == len(parts):
        return 0, 0
    return len(parts) - len(seen), sum(map(len, parts)) - sum(map(len, seen))


def _repetition(words):
    """Name -> characters in n-grams that repeat themselves, of 2 to 10 units (Gopher, table A1).

    Of 2 to 4 units, in all places of the commonest n-gram, spaces included; of 5 and more in all
    that stood before, none counted twice for one n.
    """
    names = [f"top_{n}_grams" for n in (2, 3, 4)] + [f"duplicate_{n}_grams" for n in range(5, 11)]
    found, places = dict.fromkeys(names, 0), []
    for n, name in enumerate(names, start=2):
        if n <= 5:
            of_text = ngrams(words, n)
            counts = Counter(of_text)
            if len(counts) == len(of_text):  # Then longer ones do not repeat themselves either.
                break
        if n < 5:
            top = max(counts, key=counts.get)
            found[name] = counts[top] * (sum(map(len, top)) + n - 1)
            continue
        if n == 5:  # No longer one that repeats itself begins elsewhere.
            places = [place for place, ngram in enumerate(of_text) if counts[ngram] > 1]
        found[name] = _repeated(words, n, places)
    return found


def _repeated(words, n, places):
    """Characters in the n-grams at places that stood at one before, from left to right."""
    seen, end, num_characters = set(), 0, 0
    for place in places:
        if place < end:
            continue
        ngram = tuple(words[place : place + n])
        if ngram in seen:
            num_characters += sum(map(len, ngram))
            end = place + n
        else:
            seen.add(ngram)
    return num_characters
