"""Encodes texts in which special tokens count as such, as those that a chat template writes.

To `Tokenizer.encode_batch` they are text, and so are here those that a user wrote.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lm.errors import UserError
from lm.tokenizers import offsets as offsets_lib
from lm.tokenizers.offsets import Offsets, Range

_WITH_ID = ("pad", "bos", "eos", "mask")
_PRIVATE = range(0x100000, 0x10FFFE)  # Characters that no standard gives a meaning.


def encode_split(tokenizer: Any, text: str, as_text: Sequence[Range]) -> Offsets:
    """Encodes what stands between special tokens with a tokenizer that knows none in a text.

    Args:
      tokenizer: one of `lm.tokenizers.tokenizers`.
      text: to encode.
      as_text: ranges of characters in which no special token counts.
    """
    ids: list[int] = []
    ranges: list[Range] = []

    def add(start: int, end: int) -> None:
        if start < end:
            plain = tokenizer.encode_with_offsets(text[start:end])
            ids.extend(plain.ids.tolist())
            starts, ends = ((edges + start).tolist() for edges in (plain.starts, plain.ends))
            ranges.extend(zip(starts, ends, strict=True))

    end = 0
    for match in pattern_of(tokenizer.special_ids).finditer(text):
        if not overlaps(match.span(), as_text):
            add(end, match.start())
            ids.append(tokenizer.special_ids[match[0]])
            ranges.append(match.span())
            end = match.end()
    add(end, len(text))
    return offsets_lib.from_ranges(ids, ranges)


class SplitAtSpecialTokens:
    """Encodes with a copy of a tokenizer of the `tokenizers` library that finds special tokens."""

    def __init__(self, library):
        json = library.to_str()
        self._library, self._with_stand_ins = (type(library).from_str(json) for _ in range(2))
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
        """Returns ids and their characters; special tokens that overlap `as_text` are text.

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
        """Takes from special tokens the spaces around them, which are no part of what they say."""
        taking = {i for i, token in self._special.items() if token.lstrip or token.rstrip}
        trimmed = []
        for token_id, (start, end) in zip(ids, ranges, strict=True):
            if token_id in taking:
                within = text[start:end]
                start, end = end - len(within.lstrip()), start + len(within.rstrip())
            trimmed.append((start, end))
        return trimmed

    def _encode_with_stand_ins(self, text, encoding, as_text):
        """Encodes stand-ins for the tokens that count; to this copy all its own are text."""
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
        assert not ids, ids  # Each stand-in is one token, and found again.
        return of_token, found.tokens, found.offsets


def named(
    tokenizer: Any, text_of_id: Callable[[int], str], beside: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Returns the special tokens that have a name, as `transformers` hands them to a chat template.

    Args:
      tokenizer: has the ids of the usual ones, or None.
      text_of_id: gives their spelling.
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


def _alike(token, content: str):
    """Returns an added token of the same behaviour, which counts in any text."""
    flags = dict(lstrip=token.lstrip, rstrip=token.rstrip, single_word=token.single_word)
    return type(token)(content, normalized=token.normalized, special=False, **flags)
