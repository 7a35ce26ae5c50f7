"""Tags of words: what they say in BIO and in BIOES, and which entities a row of them spells.

A tag is O, or a prefix and a type: B-PER begins a person, I-PER goes on. In BIOES, E-PER ends one
and S-PER is one of a single word. In word segmentation a tag is the prefix alone.
"""

import difflib
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lm.errors import UserError

_PREFIXES = {"BIO": "BI", "BIOES": "BIES"}
# The first and the last prefix of a well-formed entity.
_WHOLE = {"BIO": ("BB", "BI"), "BIOES": ("BE", "SS")}


class Entity(NamedTuple):
    """The words from `start` up to, not including, `end`."""

    kind: str
    start: int
    end: int


def split_tag(tag: str, scheme: str | None = None) -> tuple[str, str]:
    """Splits off prefix and type: "B-PER" -> ("B", "PER"), "O" -> ("O", "").

    Args:
      tag: of one word.
      scheme: BIO, BIOES, or None for the prefixes of both.

    Raises:
      UserError: the scheme is unknown, or the tag is none of it.
    """
    if scheme is not None and scheme not in _PREFIXES:
        near = difflib.get_close_matches(scheme, _PREFIXES, n=1, cutoff=0.0)[0]
        raise UserError(
            f"the tagging scheme {scheme!r} is unknown; did you mean {near!r}? "
            f"There are {', '.join(_PREFIXES)}"
        )
    prefix, _, kind = tag.partition("-")
    prefixes = _PREFIXES[scheme or "BIOES"]
    if tag != "O" and (len(prefix) != 1 or prefix not in prefixes):
        written = ", ".join(f"{p}-TYPE" for p in prefixes)
        raise UserError(
            f"the tag {tag!r} is not of the scheme {scheme or 'BIOES'}: write O, {written}, "
            "or choose the scheme that the tags follow (BIOES reads BILOU and BMES too)"
        )
    return prefix, kind


# U and W are entities of one word, L and E their last, M and I inside.
_AS_BIOES = {"L": "E", "U": "S", "M": "I", "W": "S"}


def as_bioes(tag: str) -> str:
    """Spells a tag of BILOU (Ratinov and Roth 2009) or BMES as BIOES does: "U-PER" -> "S-PER"."""
    prefix, dash, kind = tag.partition("-")
    return _AS_BIOES.get(prefix, prefix) + dash + kind


def entities(tags: Sequence[str], scheme: str | None = None) -> list[Entity]:
    """Finds the entities of one row.

    Args:
      tags: of the row's words.
      scheme: None reads ill-formed tags as `conlleval` does (Tjong Kim Sang & Buchholz 2000):
        every word that is not O belongs to an entity. BIO or BIOES: only well-formed entities
        count, as in `seqeval` with mode="strict".

    `I-A I-A B-A O I-B` is A A B for None, and only the second A for BIO.

    Raises:
      UserError: a tag that is not of the scheme.
    """
    split = [split_tag(tag, scheme) for tag in tags]
    return [
        Entity(split[start][1], start, end)
        for start, end in _runs(split)
        # Between its ends a stretch has nothing but I.
        if scheme is None or split[start][0] + split[end - 1][0] in _WHOLE[scheme]
    ]


def repair(tags: Sequence[str], scheme: str) -> tuple[list[str], int]:
    """Writes well-formed tags for the entities that `conlleval` sees, and counts those changed.

    BIO: `O I-A I-A B-A I-B` -> `O B-A I-A B-A B-B`, 2 changed.
    BIOES: `B-A O I-A E-A` -> `S-A O B-A E-A`, 2 changed.

    Raises:
      UserError: a tag that is not of the scheme.
    """
    split = [split_tag(tag, scheme) for tag in tags]
    repaired = list(tags)
    for start, end in _runs(split):
        prefixes = "B" + "I" * (end - start - 1)
        if scheme == "BIOES":
            prefixes = "S" if end - start == 1 else prefixes[:-1] + "E"
        kind = split[start][1]
        repaired[start:end] = [f"{prefix}-{kind}" if kind else prefix for prefix in prefixes]
    return repaired, sum(old != new for old, new in zip(tags, repaired, strict=True))


def _runs(split: list[tuple[str, str]]) -> list[tuple[int, int]]:
    """Gives start and end of each entity, where any prefix may begin one."""
    # As `conlleval` has it: E and S end one, B and S begin one, and so do another type and I
    # behind O, so that ill-formed tags count too.
    cuts = [
        i
        for i, (before, after) in enumerate(itertools.pairwise(split), start=1)
        if before[0] in "OES" or after[0] in "OBS" or before[1] != after[1]
    ]
    bounds = zip([0, *cuts], [*cuts, len(split)], strict=True)
    return [(start, end) for start, end in bounds if start < end and split[start][0] != "O"]


def spelled(tags: Iterable[str], scheme: str | None) -> list[str]:
    """Spells tags as the scheme does: those of BILOU and BMES in BIOES, if it is that."""
    return [as_bioes(tag) if scheme == "BIOES" else tag for tag in tags]


def scheme_of(labels: tuple[str, ...]) -> str:
    """Names BIO or BIOES where all tags are O or begin as such tags do, else ""."""
    starts = {as_bioes(label).partition("-")[0] for label in labels if label != "O"}
    named = all(label == "O" or (label[1:2] == "-" and label[2:]) for label in labels)
    if not named or not starts or "B" not in starts:
        return ""
    return next((s for s in ("BIO", "BIOES") if starts <= {*s}), "")  # The narrower one first.
