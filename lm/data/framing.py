"""What a tokenizer of `transformers` puts before, between and behind texts."""

import itertools
from typing import Any, NamedTuple


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


def frame_of(tokenizer: Any, num_texts: int) -> Frame:
    """Asks the post-processor of a `tokenizers.Tokenizer` about one text or two."""
    text = _any_text(tokenizer)
    encoding = tokenizer.encode(*[text] * num_texts, add_special_tokens=True)
    special_ids: list[tuple[int, ...]] = [()]
    special_types: list[tuple[int, ...]] = [()]
    text_types = []
    items = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    for sequence, run in itertools.groupby(items, key=lambda item: item[0]):
        _, ids, types = zip(*run, strict=True)
        if sequence is None:
            special_ids[-1], special_types[-1] = ids, types
        else:
            text_types.append(types[0])
            special_ids.append(())
            special_types.append(())
    return Frame(tuple(special_ids), tuple(special_types), tuple(text_types))


def _any_text(tokenizer: Any) -> str:
    """A text that has tokens: an alphabet may lack any given letter."""
    tokens = filter(None, map(tokenizer.id_to_token, range(tokenizer.get_vocab_size())))
    texts = itertools.chain(["a"], tokens)
    return next(t for t in texts if tokenizer.encode(t, add_special_tokens=False).ids)
