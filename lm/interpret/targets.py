"""The number of a model's output that is explained: a logit, or the difference of two.

Dimension key: B batch, L places of the output, V outputs of each.
"""

from typing import NamedTuple

import jax
import numpy as np

from lm.errors import UserError
from lm.interpret.subject import Subject, Text, run_model
from lm.loading.task_model import SavedTaskModel, labels_of
from lm.models import heads


class Target(NamedTuple):
    """A logit, or with `versus` its difference to another one, at one place of the output.

    name: as people read it.
    place: a token; of a tagging head a word; of a head on a text 0.
    """

    name: str
    place: int
    index: int
    versus: int | None

    def value(self, logits_BLV: jax.Array) -> jax.Array:
        """Picks the number of the first row."""
        found = logits_BLV[0, self.place, self.index]
        return found if self.versus is None else found - logits_BLV[0, self.place, self.versus]


def make_target(subject: Subject, text: Text, *, name: str, versus: str, place: int) -> Target:
    """Finds what is meant by names of tokens or of labels.

    Args:
      subject: whose output it is.
      text: that it reads.
      name: a token that the text goes on with, a label, or a tag; of question answering "start" or
        "end"; "" for the likeliest.
      versus: another one, whose logit is taken away; "" for none.
      place: of a language model the token that predicts, of tagging the word, of question answering
        the token; negative ones count from the end.

    Raises:
      UserError: a name that is no label, no token or several tokens; a place that is not there.
    """
    size = _num_places(subject, text)
    if not -size <= place < size:
        raise UserError(f"place={place} is not there; {text.name} has {size} of them")
    place %= size
    if name:
        index = _index(subject, "target", name)
    else:
        logits_BLV, _ = run_model(subject.model, subject.params, text.inputs)
        index = int(np.argmax(np.asarray(logits_BLV)[0, place]))
    other = _index(subject, "versus", versus) if versus else None
    if other == index:
        raise UserError(f"versus={versus!r} is the target itself; name another")
    shown = _name(subject, index) + (f" - {_name(subject, other)}" if other is not None else "")
    return Target(shown, place, index, other)


def _num_places(subject: Subject, text: Text) -> int:
    if isinstance(subject.model, heads.SequenceHead):
        return 1
    if "at_BW" in text.inputs:
        return text.inputs["at_BW"].shape[1]
    return len(text.written.ids_L)


def _labels(subject: Subject) -> tuple[str, ...]:
    if not (isinstance(subject.run, SavedTaskModel) and subject.body):
        return ()
    if subject.kind == "question_answering":
        return ("start", "end")
    return labels_of(subject.run.config) or ("value",)


def _name(subject: Subject, index: int) -> str:
    labels = _labels(subject)
    return labels[index] if labels else subject.run.tokenizer.piece(index)


def _index(subject: Subject, key: str, name: str) -> int:
    if labels := _labels(subject):
        if name not in labels:
            raise UserError(f"{key}={name!r} is no output; there are {', '.join(labels)}")
        return labels.index(name)
    tokenizer = subject.run.tokenizer
    special = tokenizer.id_of(name)
    ids = [special] if special is not None and tokenizer.is_special(special) else None
    # As it stands inside a text: a word behind another one begins with a space.
    ids = ids or tokenizer.encode_inside([name])[0].tolist()
    if len(ids) != 1 or ids[0] == tokenizer.unk_id:
        pieces = " ".join(tokenizer.piece(i) for i in ids)
        what = f"{len(ids)} tokens, {pieces}" if len(ids) != 1 else "not in the vocabulary"
        raise UserError(f"{key}={name!r} is {what}; name one token, as ' the' with its space")
    return ids[0]
