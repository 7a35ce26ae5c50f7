"""Text -> units that mean the same in every language, n-grams of them, and sentences.

A unit is a word where a script puts spaces between words, and one character where it does not:
Chinese, Japanese, Thai, Lao, Khmer, Burmese and their kin. What decides is the script of each
character, never the code of a language, so mixed text needs no decision at all.
"""

import re
import unicodedata

# Ideographs, kana and bopomofo, Tangut and the like; then the scripts whose words only a dictionary
# tells apart: class SA of line breaking in Unicode (UAX #14). Korean, Ethiopic and Tibetan, whose
# syllables stand between marks, are spaced.
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f"
    "\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00017000-\U00018dff\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109f"
    "\u1780-\u17d3\u17d7\u17dc\u17dd\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c\u1aa7"
    "\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f\uaa80-\uaadd"
)
# Letters, marks and digits beyond the first 65,536 characters, which re looks up range by range for
# each character that is not a letter: their exact four hundred ranges take ten times as long as
# these few, which take the punctuation of historic scripts for letters.
_RARE = "\U00010000-\U00016fff\U0001bc00-\U0001bc9f\U0001d400-\U0001d7ff\U0001df00-\U0001efff"
# Apostrophes, joiners of Persian and Indic words, the soft hyphen: in a word, not at its ends.
_JOINERS = "'\u2019\u200c\u200d\u00ad"


def _ranges(characters):
    """The inside of a class of re for characters in order: 'abcx' -> 'a-cx'."""
    found = []
    for character in characters:
        if found and ord(found[-1][1]) + 1 == ord(character):
            found[-1][1] = character
        else:
            found.append([character, character])
    return "".join(first if first == last else f"{first}-{last}" for first, last in found)


def _classes():
    """The classes of re for letters, marks and digits of spaced scripts, and for marks alone."""
    basic = [chr(n) for n in range(0x80, 0x10000)]
    marks = {c for c in basic if unicodedata.category(c)[0] == "M"}
    unspaced = re.compile(f"[{_UNSPACED}]")
    spaced = [c for c in basic if (c.isalnum() or c in marks) and not unspaced.match(c)]
    # Half-width kana have their voicing behind them; ideographs have selectors of their variants.
    marks = f"{_ranges(sorted(marks))}\uff9e\uff9f\U000e0100-\U000e01ef"
    return f"0-9A-Za-z{_ranges(spaced)}{_RARE}", marks


_SPACED, _MARKS = _classes()
_UNIT = re.compile(
    f"[{_SPACED}]+(?:[{_JOINERS}][{_SPACED}]+)*|[{_UNSPACED}][{_MARKS}]*"  # A word, or a character.
)
# Characters that show nothing (Default_Ignorable_Code_Point), as far as texts hold them.
_IS_IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e0fff]"
)

# What ends a sentence: Unicode's property Sentence_Terminal, as far as living scripts go, with the
# ellipsis and the Japanese half-width full stop, which that property leaves out.
END_MARKS = (
    ".!?\u203c\u203d\u2047-\u2049\u2026\u2e2e\u3002\uff01\uff0e\uff1f\uff61\ufe52\ufe56\ufe57"
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u0964\u0965\u104a\u104b\u1362\u1367\u1368\u166e"
    "\u17d4\u17d5\u1803\u1809\u1944\u1945\u1c7e\u1c7f\ua4ff\ua60e\ua60f\ua6f3\ua6f7\uaaf0\uaaf1"
    "\uabeb\u0f0d-\u0f12"
)
# Quotes and brackets that close after an end mark and belong to its sentence.
CLOSING = (
    "\"')\\]}\u2019\u201d\u00bb\u203a\u300b\u300d\u300f\u3011\u3015"
    "\uff02\uff07\uff09\uff3d\uff5d\uff63"
)
_END = re.compile(
    f"(?P<marks>[{END_MARKS}]+)[{CLOSING}]*(?P<space>\\s*)|(?P<blank>\\n[^\\S\\n]*\\n\\s*)"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def units(text):
    """Text -> the list of its units; punctuation, symbols and white space are in none.

    "Don't use GPT模型 2.0!" -> ["Don't", "use", "GPT", "模", "型", "2", "0"]
    """
    return _UNIT.findall(text)


def unit_spans(text):
    """Text -> the (start, end) of each of its units, in characters of the text."""
    return [found.span() for found in _UNIT.finditer(text)]


def is_unspaced(unit):
    """Whether a unit is of a script without spaces, and so one character: "模", not "GPT"."""
    return _IS_UNSPACED.match(unit) is not None


def normalized(text):
    """Text in one case, one width and one way of composing characters; nothing to be shown.

    Applied to itself it changes nothing. By Unicode's toNFKC_Casefold, with ' for the curly
    apostrophe: "ＡＢＣ Straße don’t ﬁ" -> "abc strasse don't fi".
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", _IS_IGNORED.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'")


def ngrams(items, n):
    """The tuples of n items in a row: ("abcd", 3) -> [("a", "b", "c"), ("b", "c", "d")].

    Fewer than n items have none.
    """
    return list(zip(*(items[start:] for start in range(n)), strict=False))


def sentences(text):
    """Text -> its sentences, without the white space between them.

    A sentence ends with an end mark of any script, with the quotes and brackets that close behind
    it, or at a blank line. ASCII's marks end it only before white space or an unspaced script, full
    stops and ellipses only before white space that no small letter follows. The end of a line is no
    end, as lines may be wrapped.

    'Hi!" he said. 你好。再见' -> ['Hi!"', "he said.", "你好。", "再见"]
    """
    found, start = [], 0
    for end in _END.finditer(text):
        if end["marks"] and not _ends_sentence(
            end["marks"], end["space"], text[end.end() : end.end() + 1]
        ):
            continue
        found.append(text[start : end.start("space") if end["marks"] else end.start()])
        start = end.end()
    found.append(text[start:])
    return [sentence.strip() for sentence in found if not sentence.isspace() and sentence]


def _ends_sentence(marks, space, following):
    """Whether end marks end a sentence before white space and the character that follows it."""
    if not following or space.count("\n") > 1 or not set(marks) <= {*".!?\u2026"}:
        return True
    if set(marks) <= {*".\u2026"}:
        return space != "" and not following.islower()
    return space != "" or _IS_UNSPACED.match(following) is not None
