"""Appends pieces to a tokenizer, so that text which it spells at length takes fewer tokens.

Old tokens keep their ids. Of a BPE, the new merges come after all old ones, so that text is only
ever merged further: where the longer tokenizer cuts a text, the old one does, too. A unigram's new
pieces are less likely than all old ones, and a WordPiece takes the longest piece; both do so for
most texts, not for each.
"""

import bisect
import collections
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from lm.errors import UserError
from lm.tokenizers import extensible, piece_choice
from lm.tokenizers.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)

_IDS = ("pad_id", "bos_id", "eos_id", "mask_id", "unk_id", "prefix_ids", "suffix_ids", "stop_ids")


class Extension(NamedTuple):
    """A longer tokenizer. `old_ids`: of each new token, by id, the old tokens in its place."""

    tokenizer: Tokenizer
    old_ids: list[tuple[int, ...]]


def extend(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    num_pieces: int,
    is_enough: Callable[[Tokenizer], bool] | None = None,
) -> Extension:
    """Appends the pieces that save the most tokens of the texts; see `piece_choice.choose`.

    Args:
      tokenizer: the old one.
      texts: of the language.
      num_pieces: how many are appended; fewer where no more would save anything.
      is_enough: whether the longer tokenizer needs no more pieces; then so few are appended that
        one less would not do. None: `num_pieces` are.

    Raises:
      UserError: a tokenizer that has no pieces, or cannot take more; texts that lack any use.
    """
    if num_pieces < 1:
        raise UserError(f"num_pieces={num_pieces} appends nothing; give the number of new pieces")
    old = _opened(tokenizer)
    words: dict[piece_choice.Run, int] = collections.Counter()
    for text in texts:
        words.update(old.words_of(text))
    found = _extended(tokenizer, words, num_pieces)
    if is_enough is None:
        return found
    by_number = functools.cache(functools.partial(_extended, tokenizer, words))
    numbers = range(1, len(found.old_ids))
    index = bisect.bisect(numbers, False, key=lambda num: is_enough(by_number(num).tokenizer))
    return by_number(numbers[index]) if index < len(numbers) else found


def _extended(
    tokenizer: Tokenizer, words: Mapping[piece_choice.Run, int], num_pieces: int
) -> Extension:
    """Appends pieces that save tokens of these words."""
    old = _opened(tokenizer)  # Anew: it may be extended but once.
    costs = {unit: old.cost(unit) for word in words for unit in word if isinstance(unit, str)}
    names = dict(spell=old.spell, known=old.known, reserved=old.reserved)
    choice = piece_choice.choose(words, costs, num_pieces, **names)
    runs: dict[str, piece_choice.Run] = {}
    for run in [*((char,) for char in choice.characters), *(m.run for m in choice.merges)]:
        if (piece := old.spell(run)) not in old.known:
            runs.setdefault(piece, run)
    if not runs:
        raise UserError(
            "the text gives no new piece: nothing that stands in it twice takes more than a token; "
            "give more text of the language"
        )
    total = sum(choice.counts.values())
    log_probs = [math.log(max(choice.counts[run], 1) / total) for run in runs.values()]
    merges = [(old.spell(m.left), old.spell(m.right)) for m in choice.merges]
    longer = old.extended(list(runs), log_probs, merges)
    for name in _IDS:
        if getattr(longer, name) != getattr(tokenizer, name):
            raise UserError(
                f"the tokenizer's {name} would change, from {getattr(tokenizer, name)} to "
                f"{getattr(longer, name)}; save it again with AutoTokenizer of transformers"
            )
    if [longer.id_of(piece) for piece in runs] != [
        *range(tokenizer.vocab_size, tokenizer.vocab_size + len(runs))
    ]:
        raise UserError("the ids of the new pieces do not follow the old ones; they have gaps")
    return Extension(longer, [old.old_ids(run) for run in runs.values()])


def _opened(tokenizer: Tokenizer) -> extensible.Extensible:
    match tokenizer:
        case SentencePieceTokenizer():
            return extensible.SentencePiece(tokenizer)
        case HuggingFaceTokenizer():
            return extensible.of_hugging_face(tokenizer)
        case ByteTokenizer():
            raise UserError(
                "a tokenizer of bytes has no pieces, and so cannot be extended; train a model with "
                "a tokenizer of pieces"
            )
    raise AssertionError(tokenizer)
