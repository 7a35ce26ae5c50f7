"""What a split of a corpus holds, counted while it is prepared, and what must be said of it."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from lm.corpus import lost_characters
from lm.corpus.tokenization import Tokenized
from lm.errors import UserError
from lm.formats.files import RestUnread
from lm.tokenizers import tokenizers


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """What one split holds.

    num_tokens counts the special tokens of documents too; num_bytes is the text's UTF-8, and
    num_predicted_bytes that of the tokens which have one before them in their document.
    num_skipped documents could not be read, and of num_unread files the rest could not.
    num_empty documents have no text, or white space alone.
    num_lost_chars of num_chars do not come back from the tokens; lost_chars names the commonest.
    num_shared documents with num_shared_bytes are in the training split as well.

    What was prepared by a version that did not count something has None there.
    """

    num_rows: int
    num_tokens: int
    num_documents: int
    num_bytes: int
    num_predicted_bytes: int
    num_skipped: int
    num_unread: int | None
    num_empty: int | None
    num_chars: int | None
    num_lost_chars: int | None
    lost_chars: str
    num_shared: int | None
    num_shared_bytes: int | None


def read_info(info: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> SplitInfo:
    """Makes a `SplitInfo` of its fields, some of which an older version did not count."""
    uncounted = {field.name: None for field in dataclasses.fields(SplitInfo)} | {"lost_chars": ""}
    if "num_lost_chars" not in info and lost_characters.is_lossless(tokenizer):
        uncounted["num_lost_chars"] = 0
    return SplitInfo(**uncounted | info)


def together(infos: Sequence[SplitInfo]) -> SplitInfo:
    """Adds up what several splits hold; None where one of them does not know."""
    values = {name: [getattr(info, name) for info in infos] for name in vars(infos[0])}
    lost = dict.fromkeys(", ".join(filter(None, values.pop("lost_chars"))).split(", "))
    sums = {name: None if None in each else sum(each) for name, each in values.items()}
    return SplitInfo(**sums, lost_chars=", ".join(lost))


class SplitCounter:
    """Counts a split, document by document.

    Args:
      beside: the validation split, counted before, in which training documents are looked for.
    """

    def __init__(self, beside: "SplitCounter | None" = None):
        self.num_rows = self.num_predicted_bytes = 0
        self._beside = beside
        self._counts: collections.Counter[str] = collections.Counter()
        self._lost: collections.Counter[str] = collections.Counter()
        # Of each text, how many documents are it, and their bytes; and which ones training has.
        self._texts: dict[bytes, tuple[int, int]] = {}
        self._shared: set[bytes] = set()
        self._digests: list[bytes] = []
        self._size = 0

    def begin(self, num_given_bytes: int, num_specials: int) -> None:
        """Begins a document, of which nothing predicts the first bytes."""
        self._counts["num_documents"] += 1
        self._counts["num_tokens"] += num_specials
        self.num_predicted_bytes -= num_given_bytes

    def add(self, part: Tokenized) -> None:
        """Counts the document's text, or the next part of it."""
        self._counts["num_tokens"] += len(part.tokens)
        self._counts["num_bytes"] += part.num_bytes
        self._counts["num_chars"] += part.num_chars
        self.num_predicted_bytes += part.num_bytes
        self._lost.update(part.lost)
        self._digests.append(part.digest)
        self._size += part.num_bytes
        if part.goes_on:
            return
        digest = part.digest
        if len(self._digests) > 1:  # Long documents are cut at equal places, so equal ones agree.
            digest = hashlib.blake2b(b"".join(self._digests), digest_size=len(digest)).digest()
        if digest == _EMPTY:  # Not looked for in the other split: all empty ones are alike.
            self._counts["num_empty"] += 1
        elif self._beside is None:
            count, size = self._texts.get(digest, (0, 0))
            self._texts[digest] = count + 1, size + self._size
        elif digest in self._beside._texts:
            self._beside._shared.add(digest)
        self._digests, self._size = [], 0

    def end(self, skipped: Sequence[UserError]) -> None:
        """Ends the count with what could not be read."""
        num_unread = sum(isinstance(error, RestUnread) for error in skipped)
        self._counts["num_unread"] = num_unread
        self._counts["num_skipped"] = len(skipped) - num_unread

    def info(self) -> SplitInfo:
        """Sums up what was counted, once the training split has been looked through too."""
        shared = [self._texts[digest] for digest in self._shared]
        names = ("num_tokens", "num_documents", "num_bytes", "num_skipped", "num_unread")
        return SplitInfo(
            num_rows=self.num_rows,
            num_predicted_bytes=self.num_predicted_bytes,
            **{name: self._counts[name] for name in (*names, "num_empty", "num_chars")},
            num_lost_chars=self._lost.total(),
            lost_chars=lost_characters.commonest(self._lost),
            num_shared=sum(count for count, _ in shared),
            num_shared_bytes=sum(size for _, size in shared),
        )


_EMPTY = hashlib.blake2b(b"", digest_size=16).digest()


def notes(splits: dict[str, SplitInfo]) -> list[str]:
    """Says in lines what people must know of a corpus before they believe its numbers."""
    lines = []
    for split, info in splits.items():
        if info.num_skipped:
            lines.append(f"{split}: {info.num_skipped:,} documents cannot be read and are left out")
        if info.num_unread:
            lines.append(
                f"{split}: the rest of {info.num_unread:,} files cannot be read; nobody knows how "
                "many documents it held"
            )
        if info.num_empty:
            lines.append(
                f"{split}: {info.num_empty:,} of {info.num_documents:,} documents are empty"
            )
        if info.num_lost_chars:
            share = info.num_lost_chars / info.num_chars
            lines.append(
                f"{split}: the tokenizer does not give back {info.num_lost_chars:,} of "
                f"{info.num_chars:,} characters ({share:.2%}), the commonest: {info.lost_chars}"
            )
    validation = splits["validation"]
    if validation.num_shared:
        share = validation.num_shared_bytes / validation.num_bytes
        lines.append(
            f"validation: {validation.num_shared:,} of {validation.num_documents:,} documents "
            f"({share:.2%} of the bytes) are in the training data too, so that its loss is not "
            "that of new text"
        )
    return lines


def no_bits_per_byte(info: SplitInfo) -> str:
    """Says why a split's loss in nats a token is none in bits a byte; "" where it is."""
    if info.num_lost_chars is None:
        return (
            "an older version prepared the data and did not count the characters without a token; "
            "delete its folder in the cache"
        )
    if info.num_lost_chars:
        return (
            f"the tokenizer does not give back {info.num_lost_chars:,} of {info.num_chars:,} "
            "characters of the validation text, which no token predicts"
        )
    return ""
