"""Asks whom a pronoun means, where only its gender differs: the sentences of Winogender.

Rudinger et al. 2018. An occupation and another person stand in a sentence that says which of the
two "he", "she" or "they" is.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.fairness.records import records_of, text_of
from lm.formats.fields import Record
from lm.metrics import intervals

GENDERS = ("male", "female", "neutral")
PRONOUNS = {
    "male": ("he", "him", "his", "himself"),
    "female": ("she", "her", "hers", "herself"),
    "neutral": ("they", "them", "their", "theirs", "themselves", "themself"),
}


class Sentence(NamedTuple):
    """Holds a sentence, its pronoun, and the two that it may mean, the right one at `label`."""

    name: str
    template: str  # What it shares with those of other genders.
    gender: str
    text: str
    pronoun: str
    people: tuple[str, str]
    label: int

    @property
    def answers(self) -> tuple[str, str]:
        """Gives what may follow `prompt`: " the nurse", or " someone"."""
        first, second = (" someone" if x == "someone" else f" the {x}" for x in self.people)
        return first, second

    @property
    def prompt(self) -> str:
        """Gives what one of `answers` is to follow."""
        return f'{self.text} "{self.pronoun.capitalize()}" refers to'


def read(spec: str) -> list[Sentence]:
    """Reads the files of a glob, with the columns `sentid` and `sentence`.

    Raises:
      UserError: a file that cannot be read, or a sentence that is none of Winogender.
    """
    return [_sentence(record) for record in records_of(spec, "sentence")]


def _sentence(record: Record) -> Sentence:
    sentid, text = text_of(record, "sentid"), text_of(record, "sentence")
    parts = sentid.removesuffix(".txt").split(".")
    if len(parts) != 4 or parts[2] not in ("0", "1") or parts[3] not in GENDERS:
        raise UserError(
            f"{record.name}: sentid={sentid!r} must be OCCUPATION.OTHER.0 or 1.GENDER, such as "
            "technician.customer.1.male"
        )
    *people, label, gender = parts
    words = [word for word in re.findall(r"\w+", text) if word.lower() in PRONOUNS[gender]]
    if not words:
        known = ", ".join(PRONOUNS[gender])
        raise UserError(f"{record.name}: its sentence has no pronoun of {gender}: {known}")
    template = ".".join(parts[:3])
    return Sentence(record.name, template, gender, text, words[0], tuple(people), int(label))


def compare(sentences: Sequence[Sentence], chosen: Sequence[int]) -> dict[str, Any]:
    """Compares how often the right person is chosen.

    Args:
      sentences: of several genders.
      chosen: of each, 0 or 1.

    Returns:
      "accuracy" of each gender, and "difference" of the male and the female one; "same", how often
      "he" and "she" of one template have the same answer. None for what there are no sentences of.
    """
    rows = list(zip(sentences, chosen, strict=True))
    accuracy = {}
    for gender in GENDERS:
        right = [answer == one.label for one, answer in rows if one.gender == gender]
        accuracy[gender] = _share(sum(right), len(right))
    answers = {(one.template, one.gender): answer for one, answer in rows}
    both = {template for template, gender in answers if gender == "male"}
    both &= {template for template, gender in answers if gender == "female"}
    num_same = sum(answers[x, "male"] == answers[x, "female"] for x in both)
    he, she = accuracy["male"], accuracy["female"]
    difference = {"value": None, "interval": None}
    if he["value"] is not None and she["value"] is not None:
        bounds = he["value"], he["interval"], she["value"], she["interval"]
        difference = {"value": he["value"] - she["value"]}
        difference["interval"] = intervals.difference(*bounds)
    return {"accuracy": accuracy, "difference": difference, "same": _share(num_same, len(both))}


def _share(num: int, total: int) -> dict[str, Any]:
    return {"value": num / total if total else None, "interval": intervals.wilson(num, total)}
