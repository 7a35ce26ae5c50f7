"""Writes tokenizers as the metadata of a GGUF, where llama.cpp reads the same ids of a text.

It knows two kinds: "gpt2", a BPE over bytes with a rule for words that it has by name, and "llama",
SentencePiece's BPE with bytes for what has no piece.
"""

import enum
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.tokenizers import sentencepiece_proto
from lm.tokenizers.pieces import BYTE_OF_CHARACTER, SPACE_MARK, byte_of
from lm.tokenizers.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)


class TokenType(enum.IntEnum):
    """What a token is; SentencePiece numbers its pieces alike."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Vocabulary(NamedTuple):
    """Holds metadata by key, and what to say of it."""

    metadata: dict[str, Any]
    notes: list[str]


# How a BPE over bytes splits words off first, by a regex or by steps of tokenizer.json, and whether
# it takes a word whole that has an id of its own; llama.cpp's name of both.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {
    ("ByteLevel", False): "gpt-2",
    ("Digits, ByteLevel", False): "smollm",
    (LLAMA3, True): "llama-bpe",
    (LLAMA3, False): "smaug-bpe",
    (QWEN2, False): "qwen2",
}
_IDS = {
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "unk_id": "unknown_token_id",
    "pad_id": "padding_token_id",
    "mask_id": "mask_token_id",
}
_MORE_ENDS = ("eot_token_id", "eom_token_id")
_REMEDY = "export it with --config.format=transformers"


def metadata(
    tokenizer: Tokenizer,
    *,
    num_rows: int,
    start: Sequence[int],
    stop_ids: Sequence[int],
    templates: Mapping[str, str],
) -> Vocabulary:
    """Gives all that a GGUF says of a tokenizer.

    Args:
      tokenizer: of a decoder.
      num_rows: of the model's embedding; those without a token get names of unused ones.
      start: what stands before a text that the model goes on with.
      stop_ids: each ends a text.
      templates: of chats, by name.

    Raises:
      UserError: a tokenizer that neither kind of a GGUF can express.
    """
    match tokenizer:
        case ByteTokenizer():
            special = [*tokenizer.special_ids]
            names = [f"<0x{byte:02X}>" for byte in range(256)]
            types = [TokenType.CONTROL] * len(special) + [TokenType.BYTE] * 256
            found, notes = _of_bytes(special + names, types), []
        case SentencePieceTokenizer():
            found, notes = _of_sentencepiece(tokenizer)
        case HuggingFaceTokenizer():
            found, notes = _of_hugging_face(tokenizer)
    found["pre"] = found.get("pre", "default")
    # As many as the embedding has, by which the tensors are checked.
    unused = range(len(found["tokens"]), num_rows)
    found["tokens"] += [f"[PAD{i}]" for i in unused]
    found["token_type"] += [TokenType.UNUSED] * len(unused)
    if "scores" in found:
        found["scores"] += [-1000.0] * len(unused)
    ids = {name: getattr(tokenizer, ours) for ours, name in _IDS.items()}
    ids |= zip(_MORE_ENDS, [i for i in stop_ids if i != tokenizer.eos_id], strict=False)
    found |= {name: token_id for name, token_id in ids.items() if token_id is not None}
    if tokenizer.eos_id is None:
        notes.append(
            "its tokenizer has no token that ends a text, and llama.cpp takes another for it: "
            "give it --ignore-eos"
        )
    if beyond := [i for i in stop_ids if i not in (tokenizer.eos_id, *ids.values())]:
        notes.append(f"a GGUF has no place for all tokens that end a text: not for {beyond}")
    if [*start] not in ([], [tokenizer.bos_id]):
        raise UserError(
            f"texts begin with the tokens {[*start]}, and a GGUF can say one alone, that of the "
            f"start; {_REMEDY}"
        )
    # An end is for whoever reads texts; a decoder goes on from them.
    found |= {"add_bos_token": bool(start), "add_eos_token": False}
    found = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    names = sorted(templates.keys() - {"default"})
    found |= {f"tokenizer.chat_template.{name}": templates[name] for name in names}
    found |= {"tokenizer.chat_templates": names} if names else {}
    if "default" in templates:
        found["tokenizer.chat_template"] = templates["default"]
    return Vocabulary(found, notes)


def _of_bytes(tokens: Sequence[str], types: Sequence[TokenType]) -> dict[str, Any]:
    """Makes a BPE over bytes that has no merges: "<0x20>" becomes its character there."""
    characters = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}
    spelled = [characters[byte[0]] if (byte := byte_of(token)) else token for token in tokens]
    kinds = [TokenType.NORMAL if kind == TokenType.BYTE else kind for kind in types]
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": spelled,
        "token_type": kinds,
        "merges": [],
    }


def _of_sentencepiece(tokenizer: SentencePieceTokenizer) -> tuple[dict[str, Any], list[str]]:
    proto = sentencepiece_proto.ModelProto.FromString(tokenizer.model)
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    is_bpe = trainer.model_type == sentencepiece_proto.BPE
    _refuse("that is no BPE", not is_bpe)
    _refuse("without bytes for what has no piece", not trainer.byte_fallback)
    _refuse("with spaces behind words", trainer.treat_whitespace_as_suffix)
    _refuse("with spaces as they are", not spec.escape_whitespaces)
    notes = []
    if spec.precompiled_charsmap:
        notes.append(f"its tokenizer normalises text ({spec.name}), which llama.cpp does not")
    if spec.remove_extra_whitespaces:
        notes.append("its tokenizer leaves out spaces in a row, which llama.cpp does not")
    vocabulary = {
        "model": "llama",
        "tokens": [piece.piece for piece in proto.pieces],
        "token_type": [TokenType(piece.type) for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "add_space_prefix": spec.add_dummy_prefix,
    }
    return vocabulary, notes


def _of_hugging_face(tokenizer: HuggingFaceTokenizer) -> tuple[dict[str, Any], list[str]]:
    parts = json.loads(tokenizer.tokenizer_json)
    model = parts["model"]
    _refuse(f"that is a {model['type']} and no BPE", model["type"] != "BPE")
    affixes = [model[name] for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    _refuse(f"whose pieces have affixes ({affixes})", any(affixes))
    steps = [*_steps(parts["normalizer"]), *_steps(parts["pre_tokenizer"])]
    added = {token["id"]: token for token in parts["added_tokens"]}
    ids = model["vocab"] | {token["content"]: i for i, token in added.items()}
    by_id = {i: token for token, i in ids.items()} | {i: t["content"] for i, t in added.items()}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(tokenizer.vocab_size)]  # Ids may have gaps.

    def type_of(token_id: int) -> TokenType:
        if token_id in added:
            is_special = added[token_id]["special"]
            return TokenType.CONTROL if is_special else TokenType.USER_DEFINED
        if token_id not in by_id:
            return TokenType.UNUSED
        if model["byte_fallback"] and byte_of(tokens[token_id]):
            return TokenType.BYTE
        return TokenType.UNKNOWN if token_id == tokenizer.unk_id else TokenType.NORMAL

    vocabulary = {"tokens": tokens, "token_type": [type_of(i) for i in range(len(tokens))]}
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    notes = []
    if spaced := [t["content"] for t in added.values() if t["lstrip"] or t["rstrip"]]:
        notes.append(f"these tokens take the spaces beside them, but not in llama.cpp: {spaced}")
    if model["byte_fallback"] and not steps and TokenType.NORMAL not in vocabulary["token_type"]:
        return _of_bytes(tokens, vocabulary["token_type"]), notes  # As we export our own bytes.
    if model["byte_fallback"]:
        prefix, more = _space_prefix(steps)
        scores = _scores(model["vocab"], merges)
        vocabulary |= {
            "model": "llama",
            "scores": [scores.get(token, 0.0) for token in tokens],
            "add_space_prefix": prefix,
        }
        return vocabulary, notes + more
    if any(step["type"] == "NFC" for step in steps):
        steps = [step for step in steps if step["type"] != "NFC"]
        notes.append("its tokenizer composes characters (NFC), which llama.cpp does not")
    split = _split_of(steps)
    key = split, model["ignore_merges"]
    _refuse(f"that splits words by {split}, which llama.cpp has no name for", key not in _SPLITS)
    spelled = [" ".join(merge) for merge in merges]
    return vocabulary | {"model": "gpt2", "pre": _SPLITS[key], "merges": spelled}, notes


def _refuse(what: str, is_so: bool) -> None:
    if is_so:
        raise UserError(f"a GGUF has no equal of a tokenizer {what}; {_REMEDY}")


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Lists the steps of a normalizer or pre-tokenizer, those of its sequences one by one."""
    if part is None:
        return []
    inner = part.get("normalizers", part.get("pretokenizers", []))
    return [part] if part["type"] != "Sequence" else list(itertools.chain(*map(_steps, inner)))


def _split_of(steps: Sequence[dict[str, Any]]) -> str:
    """Names how text is split before a BPE over bytes: a regex, or what `_SPLITS` has."""
    match steps:
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return "ByteLevel"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False},
        ]:
            return "Digits, ByteLevel"
        case [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ]:
            return regex
    return json.dumps(steps)[:200]


def _space_prefix(steps: Sequence[dict[str, Any]]) -> tuple[bool, list[str]]:
    """Tells whether a space is put before a text, and what to say of it."""
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    prepend = {"type": "Prepend", "prepend": SPACE_MARK}
    double = {"type": "Replace", "pattern": {"Regex": rf"\A{SPACE_MARK}"}}
    metaspace = {"type": "Metaspace", "replacement": SPACE_MARK, "split": False}
    has = lambda parts: (
        len(steps) == len(parts)
        and all(part.items() <= step.items() for part, step in zip(parts, steps, strict=True))
    )
    if has([escape]) or has([metaspace | {"prepend_scheme": "never"}]):
        return False, []
    if has([prepend, escape]) or has([escape, double, metaspace]):
        return True, []
    if has([metaspace]) or has([escape, metaspace]):
        return True, [
            "its tokenizer puts a space before a text unless there is one; llama.cpp always does"
        ]
    raise UserError(f"a GGUF has no equal of how its tokenizer treats spaces; {_REMEDY}")


def _scores(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> dict[str, float]:
    """Finds scores by which SentencePiece, which has no merges, joins the same pieces."""
    pieces = [piece for piece, _ in itertools.groupby(map("".join, merges))]
    _refuse("whose merges make a piece at two ranks", len(pieces) != len(set(pieces)))
    listed = set(map(tuple, merges))
    splits = ((piece[:i], piece[i:]) for piece in vocabulary for i in range(1, len(piece)))
    joined = (pair for pair in splits if vocabulary.keys() >= set(pair))
    lacking = next((pair for pair in joined if pair not in listed), None)
    _refuse(f"without the merge {lacking}, which SentencePiece would do", lacking is not None)
    return {piece: -float(rank) for rank, piece in enumerate(pieces)}
