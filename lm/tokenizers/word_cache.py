"""Encodes a text by its words, each but once: a BPE that never joins two gives the same tokens.

SentencePiece merges a text as a whole, and so the same words over and over.
"""

import array
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lm.tokenizers import sentencepiece_proto
from lm.tokenizers.pieces import SPACE_MARK

_WORD = re.compile(" *[^ ]+| +")
_END_OF_A_WORD = re.compile("[^ ] ")
_MAX_CHARS = 2**22  # Of all words that are kept: some 260,000 of source code, in 55 MB.


def is_exact(model: bytes) -> bool:
    """Whether the words of any text have the tokens, one after the other, that the text has."""
    proto = sentencepiece_proto.ModelProto.FromString(model)
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    # Unigram's sums over a text round otherwise than those over a word; unknown characters, of
    # which several in a row are one token, are none where bytes stand in for them.
    return (
        trainer.model_type == sentencepiece_proto.BPE
        and trainer.byte_fallback
        and spec.escape_whitespaces
        and not (spec.precompiled_charsmap or spec.remove_extra_whitespaces)
        and not spec.add_dummy_prefix
        and not any(_END_OF_A_WORD.search(p.piece.replace(SPACE_MARK, " ")) for p in proto.pieces)
    )


class WordCache:
    """Encodes texts, and keeps the tokens of their words for the texts to come.

    Args:
      encode: of a model for which `is_exact`; from texts to ids.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]]):
        self._encode = encode
        self._known: dict[str, bytes] = {}
        self._num_chars = 0

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Returns the ids of each text, int32."""
        known = self._known  # Held, since another thread may put a new one in its place.
        words = [_WORD.findall(text) for text in texts]
        new = list(set().union(*words).difference(known))
        known.update(zip(new, map(_as_bytes, self._encode(new)), strict=True))
        # A `bytearray`, since an array of `bytes` cannot be written to.
        joined = [bytearray().join(map(known.__getitem__, each)) for each in words]
        self._num_chars += sum(map(len, new))
        if self._num_chars > _MAX_CHARS:
            self._known, self._num_chars = {}, 0
        return [np.frombuffer(ids, np.int32) for ids in joined]


def _as_bytes(ids: Sequence[int]) -> bytes:
    return array.array("i", ids).tobytes()
