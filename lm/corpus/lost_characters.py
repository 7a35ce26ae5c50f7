"""What a tokenizer does not give back of a text: characters without a token, and changed ones.

A model that never reads a character never predicts it, so its loss says nothing of those bytes.
"""

import collections
import json
import unicodedata
from collections.abc import Sequence

from lm.tokenizers import sentencepiece_proto, tokenizers


def is_lossless(tokenizer: tokenizers.Tokenizer) -> bool:
    """Says whether the way a tokenizer is made gives any text back from its tokens."""
    # False means not known: then `find` looks at each text.
    match tokenizer:
        case tokenizers.ByteTokenizer():
            return True
        case tokenizers.SentencePieceTokenizer():
            proto = sentencepiece_proto.ModelProto.FromString(tokenizer.model)
            changes = proto.normalizer_spec  # A space that is put in front is no change.
            changes_text = changes.precompiled_charsmap or changes.remove_extra_whitespaces
            return proto.trainer_spec.byte_fallback and not changes_text
        case tokenizers.HuggingFaceTokenizer():
            return _hugging_face_is_lossless(tokenizer.tokenizer_json)
    return False


def _hugging_face_is_lossless(tokenizer_json: str) -> bool:
    """Asks for byte-level BPE that has all bytes, and changes no text before."""
    from tokenizers import pre_tokenizers

    parts = json.loads(tokenizer_json)
    step = parts["pre_tokenizer"] or {}
    steps = step.get("pretokenizers", [step])
    model, added = parts["model"], parts["added_tokens"]
    return (
        parts["normalizer"] is None
        and (parts["decoder"] or {}).get("type") == "ByteLevel"
        and any(step.get("type") == "ByteLevel" for step in steps)
        and all(step.get("type") in ("ByteLevel", "Split", "Digits") for step in steps)
        and all(step.get("behavior") != "Removed" for step in steps)
        and not any(step.get("add_prefix_space") for step in steps)
        and model.get("type", "BPE") == "BPE"
        and model["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet())
        and not any(token["lstrip"] or token["rstrip"] for token in added)  # They eat spaces.
    )


def find(
    tokenizer: tokenizers.Tokenizer, text: str, ids: Sequence[int], *, inside: bool = False
) -> collections.Counter[str]:
    """Counts the characters of a text that do not come back from its tokens.

    Of "Éa☃" a tokenizer that makes "É" an "e" and knows no "☃" loses one of each.

    Args:
      tokenizer: what made the tokens.
      text: what it read.
      ids: its tokens.
      inside: whether the text stands inside a longer one; decoding may drop its first space.
    """
    given = tokenizer.decode([i for i in ids if i != tokenizer.unk_id])
    if inside and text.startswith(" ") and not given.startswith(" "):
        given = f" {given}"
    if given in (text, f" {text}"):  # A space that is put before each text, tells nothing of it.
        return collections.Counter()
    had, has = collections.Counter(text), collections.Counter(given)
    # Those that are gone; else those that were added; else, in another order, the first of all:
    # never nothing, or the text would pass as one that comes back.
    return (had - has) or (has - had) or collections.Counter(text[:1])


def commonest(characters: collections.Counter[str], most: int = 8) -> str:
    """Lists the commonest of some characters, as people can read them: "'A', 'é', U+000A"."""
    order = sorted(characters, key=lambda c: (-characters[c], c))[:most]
    return ", ".join(_name(character) for character in order)


def _name(character: str) -> str:
    is_visible = character.isprintable() and not unicodedata.category(character).startswith("Z")
    return repr(character) if is_visible else f"U+{ord(character):04X}"
