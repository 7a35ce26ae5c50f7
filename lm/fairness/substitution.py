"""Exchanges the terms of two groups in a text: "he" and "she", 父亲 and 母亲.

Lu et al. 2020, section 3: what a model says of a text should not change with them.
"""

import collections
import copy
import dataclasses
import functools
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record, has, lookup
from lm.tokenizers.vocabulary import is_chinese

_FOLDER = pathlib.Path(__file__).parent / "words"
OWN = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))  # Lists that come with `lm`.
_KEYS = {"pairs": list, "stops": list, "first_only": dict, "second_only": dict, "no_noun": list}


class Substituted(NamedTuple):
    """Holds a text in its other form, and what was exchanged.

    num_first, num_second: terms that were of the first group, and of the second.
    num_ambiguous: those of them whose counterpart depends on what follows, such as `her`.
    """

    text: str
    num_first: int
    num_second: int
    num_ambiguous: int


@dataclasses.dataclass(frozen=True)
class Words:
    """Holds terms of two groups, in lower case.

    other: what stands for a term; where that depends on what follows, what does before a noun and
      what does elsewhere.
    first: the terms of the first group; all others are of the second.
    stops: longer words, in which nothing is exchanged.
    no_noun: words that are no part of what follows a possessive.
    """

    other: Mapping[str, tuple[str, ...]]
    first: frozenset[str]
    stops: frozenset[str]
    no_noun: frozenset[str]

    def substitute(self, text: str) -> Substituted:
        """Exchanges all terms, from left to right, the longest first; case stays as it was.

        "He lost her keys." becomes "She lost his keys."; 他的其他朋友 becomes 她的其他朋友.
        """
        counts: collections.Counter[str] = collections.Counter()

        def exchange(found: re.Match[str]) -> str:
            term = found[0].lower()
            if term not in self.other:
                return found[0]
            others = self.other[term]
            counts["first" if term in self.first else "second"] += 1
            counts["ambiguous"] += len(others) > 1
            other = others[0] if self._is_noun_next(text[found.end() :]) else others[-1]
            return _in_case_of(found[0], other)

        changed = self._pattern.sub(exchange, text)
        return Substituted(changed, counts["first"], counts["second"], counts["ambiguous"])

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        terms = sorted({*self.other, *self.stops}, key=lambda term: (-len(term), term))
        return re.compile("|".join(map(_bounded, terms)), re.IGNORECASE)

    def _is_noun_next(self, rest: str) -> bool:
        word = _NEXT.match(rest)
        return word is not None and word[1].lower() not in self.no_noun


def exchanged(
    record: Record, fields: Sequence[str], words: Words
) -> tuple[Record, Substituted] | None:
    """Exchanges the terms in these fields of a record; None where they hold none.

    Returns the record, by the name of the other with "exchanged", and the counts of all fields
    together, whose text is that of the last.
    """
    values = copy.deepcopy(record.fields)
    total = Substituted("", 0, 0, 0)
    for field in fields:
        text = lookup(values, field) if has(values, field) else None
        found = words.substitute(text) if isinstance(text, str) else Substituted("", 0, 0, 0)
        if found.num_first or found.num_second:
            _replace(values, field, found.text)
        total = Substituted(found.text, *(a + b for a, b in zip(total[1:], found[1:], strict=True)))
    if not (total.num_first or total.num_second):
        return None
    return Record(f"{record.name} (exchanged)", values), total


def _replace(fields: Any, path: str, value: str) -> None:
    """Puts a value where `lookup` finds the old one."""
    if path in fields:
        fields[path] = value
        return
    *parents, last = path.split(".")
    for part in parents:
        fields = fields[int(part)] if isinstance(fields, list) else fields[part]
    fields[int(last) if isinstance(fields, list) else last] = value


_NEXT = re.compile(r"\s+([^\W\d_]+)")


def _bounded(term: str) -> str:
    """Makes the pattern of a term, which in a script with spaces is a whole word."""
    before, behind = ("" if is_chinese(x) else r"\b" for x in (term[0], term[-1]))
    return f"{before}{re.escape(term)}{behind}"


def _in_case_of(term: str, other: str) -> str:
    if term.isupper() and len(term) > 1:
        return other.upper()
    return other[0].upper() + other[1:] if term[0].isupper() else other


def read(names: str, key: str) -> Words:
    """Reads lists of terms.

    Args:
      names: with commas between, "en" or "zh" for those that come with `lm`, or TOML files of one's
        own in their form: `pairs` of terms, and `stops`.
      key: of the config, for errors.

    Raises:
      UserError: there is no such file, it is none of that form, or a term stands for two others.
    """
    parts = [_read(name.strip(), key) for name in names.split(",") if name.strip()]
    if not parts:
        raise UserError(f"{key} is not set; name lists of terms: {', '.join(OWN)}, or a TOML file")
    other: dict[str, tuple[str, ...]] = {}
    first, stops, no_noun = set(), set(), set()
    for name, part in parts:
        of_first = {a: [b] for a, b in part["pairs"]} | part["first_only"]
        of_second = {b: [a] for a, b in part["pairs"]} | part["second_only"]
        terms = [term for pair in part["pairs"] for term in pair]
        terms += [*part["first_only"], *part["second_only"]]
        if twice := [term for term in terms if terms.count(term) > 1 or term in other]:
            raise UserError(f"{key}: {name} has {twice[0]!r} twice; a term stands for one other")
        other |= {term: tuple(others) for term, others in (of_first | of_second).items()}
        first |= of_first.keys()
        stops |= {*part["stops"]}
        no_noun |= {*part["no_noun"]}
    return Words(other, frozenset(first), frozenset(stops), frozenset(no_noun))


def _read(name: str, key: str) -> tuple[str, Mapping[str, Any]]:
    path = _FOLDER / f"{name}.toml" if name in OWN else pathlib.Path(name)
    shown = files.shown(name)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise UserError(
            f"{key}={shown}: there is no such file; name {', '.join(OWN)}, or a TOML file"
        ) from None
    except ValueError as error:  # Of TOML, or no UTF-8.
        raise UserError(f"{key}: {shown} is no TOML: {error}") from None
    part = {name: kind() for name, kind in _KEYS.items()} | found
    if unknown := [name for name in part if name not in _KEYS]:
        raise UserError(f"{key}: {shown} has {unknown[0]!r}; known are {', '.join(_KEYS)}")
    for name, kind in _KEYS.items():
        if not isinstance(part[name], kind):
            what = "a table" if kind is dict else "a list"
            raise UserError(f"{key}: {shown}: {name} must be {what}")
    is_term = lambda x: isinstance(x, str) and x == x.strip().lower() != ""
    are_terms = lambda x, num: isinstance(x, list) and len(x) in num and all(map(is_term, x))
    one_way = [*part["first_only"].items(), *part["second_only"].items()]
    wrong = [x for x in part["pairs"] if not are_terms(x, (2,))]
    wrong += [x for x in (*part["stops"], *part["no_noun"]) if not is_term(x)]
    wrong += [x for x in one_way if not (is_term(x[0]) and are_terms(x[1], (1, 2)))]
    if wrong or not part["pairs"]:
        what = f"has {wrong[0]!r}, and " if wrong else "has no pairs; "
        raise UserError(f"{key}: {shown} {what}needs pairs of terms in lower case")
    return shown, part
