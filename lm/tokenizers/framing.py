"""Puts special tokens before, between and behind texts, as tokenizers of `transformers` do."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.errors import UserError


class Frame(NamedTuple):
    """Special tokens around one text or two.

    A pair in BERT's manner, `[CLS] a [SEP] b [SEP]`, is

        special_ids    ((2,), (3,), (3,))    before the first text, between them, behind the last
        special_types  ((0,), (0,), (1,))
        text_types     (0, 1)
    """

    special_ids: tuple[tuple[int, ...], ...]
    special_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]

    @property
    def num_special(self) -> int:
        """Counts the tokens that it adds."""
        return sum(map(len, self.special_ids))

    def join(self, texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all, and their types, which tell a model one text from the other."""
        ids, types = [self.special_ids[0]], [self.special_types[0]]
        rest = zip(
            texts, self.text_types, self.special_ids[1:], self.special_types[1:], strict=True
        )
        for text, text_type, special, special_types in rest:
            ids += [text, special]
            types += [np.full(len(text), text_type), special_types]
        return np.concatenate(ids).astype(np.int32), np.concatenate(types).astype(np.int32)


def around(start: tuple[int, ...], end: tuple[int, ...], num_texts: int) -> Frame:
    """Makes the frame `start a end`, or `start a end b end`: what ends a text is of its type."""
    types = tuple(range(num_texts))
    special_types = ((0,) * len(start), *((i,) * len(end) for i in types))
    return Frame((start, *[end] * num_texts), special_types, types)


def plain(bos_id: int | None, eos_id: int, num_texts: int) -> Frame:
    """Makes `<s> a </s>`, or `<s> a </s> b </s>`; without `<s>` where there is none."""
    return around(() if bos_id is None else (bos_id,), (eos_id,), num_texts)


def frame_of(tokenizer: Any, num_texts: int) -> Frame:
    """Asks the post-processor of a `tokenizers.Tokenizer` about one text or two.

    Raises:
      UserError: it leaves a text out, repeats it, or puts the second one first.
    """
    text, text_ids = _any_text(tokenizer)
    encoding = tokenizer.encode(*[text] * num_texts, add_special_tokens=True)
    special_ids: list[tuple[int, ...]] = [()]
    special_types: list[tuple[int, ...]] = [()]
    texts, text_types = [], []
    items = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    for sequence, run in itertools.groupby(items, key=lambda item: item[0]):
        _, ids, types = zip(*run, strict=True)
        if sequence is None:
            special_ids[-1], special_types[-1] = ids, types
        else:
            texts.append((sequence, ids))
            text_types.append(types[0])
            special_ids.append(())
            special_types.append(())
    num_ids = encoding.special_tokens_mask.count(0)  # Of texts; of one given twice, both count.
    if texts != [(i, text_ids) for i in range(num_texts)] or num_ids != num_texts * len(text_ids):
        raise UserError(
            f"the post_processor of its tokenizer.json does not give each of {num_texts} texts "
            "once and in order; mend it, or remove it"
        )
    return Frame(tuple(special_ids), tuple(special_types), tuple(text_types))


def _any_text(tokenizer: Any) -> tuple[str, tuple[int, ...]]:
    """Returns a text that has tokens, and their ids."""
    tokens = filter(None, map(tokenizer.id_to_token, range(tokenizer.get_vocab_size())))
    processor, tokenizer.post_processor = tokenizer.post_processor, None  # It may drop all texts.
    # A vocabulary may lack any given letter.
    found = ((text, tuple(tokenizer.encode(text).ids)) for text in itertools.chain(["a"], tokens))
    text_and_ids = next(((text, ids) for text, ids in found if ids), ("", ()))
    tokenizer.post_processor = processor
    return text_and_ids
