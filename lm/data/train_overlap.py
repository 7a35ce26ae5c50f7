"""What the validation examples of a task share with its training examples."""

import hashlib
from collections.abc import Sequence

import numpy as np

from lm.data.examples import Features

_READ = ("tokens_BL", "encoder_tokens_BM")  # What a model reads of an example.


def num_seen(
    train: Sequence[Features], validation: Sequence[Features], owners: Sequence[int]
) -> int:
    """Of how many validation records a model reads just what it reads in training.

    Labels, and names such as an id, do not count: a text is known, whatever is said of it.

    Args:
      train, validation: the examples of all records.
      owners: the record of each validation example.
    """
    seen = set(map(_digest, train))
    known: dict[int, bool] = {}
    for example, owner in zip(validation, owners, strict=True):
        known[owner] = known.get(owner, True) and _digest(example) in seen
    return sum(known.values())


def _digest(example: Features) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in _READ:
        if name in example:
            digest.update(name.encode() + np.asarray(example[name], np.int32).tobytes())
    return digest.digest()
