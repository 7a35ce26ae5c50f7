"""Texts in which special tokens count as such, as those that a chat template writes.

The other way round from `Tokenizer.encode_batch`, to which they are text. Some of them may still be
text: those that stand in what a user wrote.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.tokenizers import offsets as offsets_lib
from lm.tokenizers.offsets import Offsets, Range

_WITH_ID = ("pad", "bos", "eos", "mask")
_PRIVATE = range(0x100000, 0x10FFFE)  # Characters that no standard gives a meaning.


def encode_split(
    text: str,
    as_text: Sequence[Range],
    ids_by_name: Mapping[str, int],
    encode: Callable[[str], Offsets],
) -> Offsets:
    """Of a tokenizer that knows none of its special tokens in a text: what is between is encoded.

    Args:
      text: to encode.
      as_text: ranges of characters in which no special token counts.
      ids_by_name: of the special tokens.
      encode: a text without special tokens -> its ids.
    """
    ids: list[np.ndarray] = []
    ranges: list[np.ndarray] = []

    def add(start: int, end: int) -> None:
        if start < end:
            plain = encode(text[start:end])
            ids.append(plain.ids)
            ranges.append(np.stack([plain.starts, plain.ends], axis=1) + start)

    end = 0
    for match in pattern_of(ids_by_name).finditer(text):
        if not overlaps(match.span(), as_text):
            add(end, match.start())
            ids.append(np.array([ids_by_name[match[0]]], np.int32))
            ranges.append(np.array([match.span()], np.int32))
            end = match.end()
    add(end, len(text))
    empty = np.zeros(0, np.int32)
    return offsets_lib.from_ranges(
        np.concatenate([empty, *ids]), np.concatenate([empty.reshape(0, 2), *ranges])
    )


class SplitAtSpecialTokens:
    """A tokenizer of the `tokenizers` library that finds its special tokens in a text.

    Args:
      library: it is copied.
    """

    def __init__(self, library):
        self._library, self._with_stand_ins = _copy(library), _copy(library)
        added = library.get_added_tokens_decoder()
        self._special = {i: token for i, token in added.items() if token.special}
        self._library.encode_special_tokens = False
        self._with_stand_ins.encode_special_tokens = True  # That is: as text.
        # As long as what they stand for, so that characters keep their places.
        self._stand_ins = {
            i: chr(_PRIVATE[k]) * len(self._special[i].content)
            for k, i in enumerate(sorted(self._special))
        }
        self._with_stand_ins.add_tokens(
            [_alike(token, self._stand_ins[i]) for i, token in self._special.items()]
        )

    def encode(self, text: str, as_text: Sequence[Range]) -> Offsets:
        """Its ids and their characters; special tokens that overlap `as_text` are text.

        Raises:
          UserError: the text holds private-use characters where some of its tokens are to be text.
        """
        encoding = self._library.encode(text, add_special_tokens=False)
        ids, tokens, ranges = encoding.ids, encoding.tokens, encoding.offsets
        if as_text:
            ids, tokens, ranges = self._encode_with_stand_ins(text, encoding, as_text)
        return offsets_lib.from_hugging_face(
            text, ids, tokens, self._without_spaces(text, ids, ranges)
        )

    def _without_spaces(
        self, text: str, ids: Sequence[int], ranges: Sequence[Range]
    ) -> list[Range]:
        """Special tokens may take the spaces around them, which are no part of what they say."""
        taking = {i for i, token in self._special.items() if token.lstrip or token.rstrip}
        trimmed = []
        for token_id, (start, end) in zip(ids, ranges, strict=True):
            if token_id in taking:
                within = text[start:end]
                start, end = end - len(within.lstrip()), start + len(within.rstrip())
            trimmed.append((start, end))
        return trimmed

    def _encode_with_stand_ins(self, text, encoding, as_text):
        """Puts others in the place of those that count, and has none of its own count."""
        replaced = list(text)
        ids: dict[int, int] = {}  # By the first character.
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id not in self._special or overlaps((start, end), as_text):
                continue
            token = self._special[token_id]
            at = text.find(token.content, start, end)  # It may have taken the spaces around it.
            if at < 0 and not token.normalized:
                continue  # What the model gives for an unknown character.
            if at < 0 or any(ord(char) in _PRIVATE for char in text):
                raise UserError(
                    f"a message spells a special token, which the template's own {token.content} "
                    "cannot be told from; take it out, or the private-use characters beside it"
                )
            replaced[at : at + len(token.content)] = self._stand_ins[token_id]
            ids[at] = token_id
        found = self._with_stand_ins.encode("".join(replaced), add_special_tokens=False)
        of_token = [
            next((ids.pop(i) for i in range(start, end) if i in ids), token_id)
            for token_id, (start, end) in zip(found.ids, found.offsets, strict=True)
        ]
        assert not ids, ids
        return of_token, found.tokens, found.offsets


def named(
    tokenizer: Any, text_of_id: Callable[[int], str], beside: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """The special tokens that have a name, as `transformers` hands them to a chat template.

    Args:
      tokenizer: has the ids of the usual ones, or None.
      text_of_id: their spelling.
      beside: what the files of a folder say, the last of them with the last word.
    """
    found: dict[str, str] = {}
    for settings in beside:
        extra = settings.get("extra_special_tokens")
        extra = extra if isinstance(extra, dict) else {}
        for name, token in (dict(settings) | extra).items():
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str) and (name.endswith("_token") or name in extra):
                found[name] = text
    for name in _WITH_ID:
        token_id = getattr(tokenizer, f"{name}_id")
        found.pop(f"{name}_token", None)  # Has been looked for in the files already.
        if token_id is not None:
            found[f"{name}_token"] = text_of_id(token_id)
    return found


def pattern_of(names: Iterable[str]) -> re.Pattern:
    """Matches any of these, the longest first, and nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def overlaps(span: Range, ranges: Sequence[Range]) -> bool:
    """Whether a range of characters shares one with any of these."""
    return any(start < span[1] and span[0] < end for start, end in ranges)


def _copy(library):
    return type(library).from_str(library.to_str())


def _alike(token, content: str):
    """An added token of the same behaviour, which counts in any text."""
    flags = dict(lstrip=token.lstrip, rstrip=token.rstrip, single_word=token.single_word)
    return type(token)(content, normalized=token.normalized, special=False, **flags)
