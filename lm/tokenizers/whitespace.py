"""Tokenizers without their rules for the spaces around a text, for text that stands in the middle.

Published tokenizers put a space before a text, or take away those that are there.
"""

import json
from typing import Any


def keep_sentencepiece(model: bytes) -> bytes:
    """The same SentencePiece model, which neither adds nor removes spaces."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    return proto.SerializeToString()


def keep_hugging_face(tokenizer_json: str) -> bytes:
    """The same `tokenizer.json`, which neither adds a space nor removes one before a text.

    WordPiece, which has no token for a space, stays as it is.

    Args:
      tokenizer_json: as `tokenizers` itself writes it, without the spellings of older versions.
    """
    parts = json.loads(tokenizer_json)
    for key in ("normalizer", "pre_tokenizer"):
        parts[key] = _keep(parts.get(key))
    return json.dumps(parts).encode()


def _keep(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of a normalizer or pre-tokenizer, perhaps a sequence of them; None does nothing."""
    match part:
        case {"type": "Sequence"}:
            key = "normalizers" if "normalizers" in part else "pretokenizers"
            steps = [step for step in map(_keep, part[key]) if step is not None]
            if any(step["type"] == "Metaspace" for step in steps):
                # It drops the spaces that Metaspace would mark, which marks every word's start.
                steps = [step for step in steps if step["type"] != "WhitespaceSplit"]
            return part | {key: steps}
        case {"type": "ByteLevel"}:
            return part | {"add_prefix_space": False}
        case {"type": "Metaspace"}:
            return part | {"prepend_scheme": "never"}
        case {"type": "Strip"}:
            return part | {"strip_left": False}
        case {"type": "Prepend"}:
            return None
        case {"type": "Replace", "pattern": {"Regex": regex}} if regex.startswith(r"\A"):
            return None  # What SentencePiece does to the spaces at the start of a text.
    return part
