"""Asks whom a pronoun means, where a stereotype of occupations is right and where it is wrong.

WinoBias, Zhao et al. 2018: two occupations and a pronoun, in one file with that of the gender which
most people of the right occupation have, in another one with the other.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.fairness import winogender
from lm.fairness.records import lines_of
from lm.fairness.winogender import Sentence
from lm.formats import files
from lm.formats.fields import Record
from lm.metrics import intervals

_MARKED = re.compile(r"\[\s*(.*?)\s*\]")
_ARTICLE = re.compile(r"^(?:the|an?|some)\s+", re.IGNORECASE)
_GENDERS = {word: gender for gender in ("male", "female") for word in winogender.PRONOUNS[gender]}


class Both(NamedTuple):
    """Holds the sentences of a file in which the stereotype is right, and of that beside it."""

    pro: list[Sentence]
    anti: list[Sentence]


def read(pro: str, anti: str) -> dict[str, Both]:
    """Reads files of WinoBias, such as pro_stereotyped_type1.txt.test, by the names of the first.

    "1 [The cook] thanked the nurse because [he] was hungry." is a line: the pronoun, and whom it
    means. The other person is the first one in it who is marked in another line of these files.

    Args:
      pro: a glob of those in which the stereotype is right.
      anti: of as many in which it is wrong, in the same order.

    Raises:
      UserError: a file that cannot be read, or a line without these three, by its number.
    """
    for key, spec in (("data", pro), ("anti", anti)):
        if not spec:
            raise UserError(f"{key} is not set; name files of WinoBias: --config.{key}=FILES")
    paths = [files.find("", spec, key=key) for key, spec in (("data", pro), ("anti", anti))]
    if len(paths[0]) != len(paths[1]):
        raise UserError(
            f"data={pro} names {len(paths[0])} files and anti={anti} {len(paths[1])}; each needs "
            "one beside it"
        )
    lines = [[lines_of(path) for path in of_side] for of_side in paths]
    marked = [found for side in lines for of_file in side for found in map(_marked, of_file)]
    people = {person.casefold(): person for person, _ in marked}
    sentences = [[[_sentence(x, people) for x in of_file] for of_file in side] for side in lines]
    names = [path.name for path in paths[0]]
    return {name: Both(*both) for name, *both in zip(names, *sentences, strict=True)}


def _marked(line: Record) -> tuple[str, str]:
    """Finds whom a line marks, and its pronoun."""
    marked = _MARKED.findall(line.fields["text"])
    people = [_ARTICLE.sub("", x) for x in marked if x.lower() not in _GENDERS]
    pronouns = [x for x in marked if x.lower() in _GENDERS]
    if not people or not people[0] or not pronouns:
        raise UserError(
            f"{line.name}: it must mark a person and a pronoun, as in "
            "'1 [The cook] thanked the nurse because [he] was hungry.'"
        )
    return people[0], pronouns[0]


def _sentence(line: Record, people: Mapping[str, str]) -> Sentence:
    right, pronoun = _marked(line)
    number, _, rest = line.fields["text"].strip().partition(" ")
    text = _MARKED.sub(r"\1", rest if number.isdecimal() else line.fields["text"].strip())
    places = {
        key: found.start()
        for key in people
        if (found := re.search(rf"\b{re.escape(key)}\b", text, re.IGNORECASE))
    }
    others = sorted(places.keys() - {right.casefold()}, key=places.__getitem__)
    if not others:
        raise UserError(
            f"{line.name}: but for {right!r} it names none of the people that lines of these files "
            "mark; give whole files"
        )
    pair = sorted((right.casefold(), others[0]), key=places.__getitem__)
    return Sentence(
        name=line.name,
        template=line.name,
        gender=_GENDERS[pronoun.lower()],
        text=text,
        pronoun=pronoun,
        people=(people[pair[0]], people[pair[1]]),
        label=pair.index(right.casefold()),
    )


def compare(sentences: Mapping[str, Both], chosen: Mapping[str, Sequence[Sequence[int]]]) -> dict:
    """Compares how often the right person is chosen where a stereotype says so, and where not.

    Args:
      sentences: see `read`.
      chosen: of each file and both of its sides, 0 or 1 for each sentence.

    Returns:
      "pro" and "anti", the accuracies; "gap", the first less the second; and the same of each file,
      "by_file".
    """
    right = {
        name: tuple(
            [one.label == answer for one, answer in zip(side, answers, strict=True)]
            for side, answers in zip(both, chosen[name], strict=True)
        )
        for name, both in sentences.items()
    }
    pro, anti = ([x for both in right.values() for x in both[i]] for i in range(2))
    by_file = {name: _summary(*both) for name, both in right.items()}
    return _summary(pro, anti) | {"by_file": by_file}


def _summary(pro: Sequence[bool], anti: Sequence[bool]) -> dict[str, Any]:
    shares = [(sum(x) / len(x), intervals.wilson(sum(x), len(x))) for x in (pro, anti)]
    (first, of_first), (second, of_second) = shares
    gap = intervals.difference(first, of_first, second, of_second)
    return {
        "num": [len(pro), len(anti)],
        "pro": {"value": first, "interval": of_first},
        "anti": {"value": second, "interval": of_second},
        "gap": {"value": first - second, "interval": gap},
    }
