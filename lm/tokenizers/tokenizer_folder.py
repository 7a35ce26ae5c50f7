"""Reads the tokenizer of a folder of `transformers`, whichever files it has, as two files.

They are what `AutoTokenizer` of `transformers` 5 makes of the same folder: which class it takes,
and which of the files that class believes.
"""

import base64
import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, models

from lm.errors import UserError
from lm.system import folder_files
from lm.system.progress_bar import say
from lm.tokenizers import sentencepiece_files, tokenizer_choice
from lm.tokenizers.tokenizer_classes import (
    CLASSES,
    GENERIC,
    TokenizerClass,
    Vocabulary,
    frame_by_flags,
)

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
TOKENS_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_FILES = (TOKENIZER, "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
_FILES += ("sentencepiece.bpe.model",)
USUAL_NAMES = {
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "mask_token": ("<mask>", "[MASK]"),
}
_ENDS = ("bos_token", "eos_token", "cls_token", "sep_token")  # Who names one, names all there are.
_CLASS_OF_FILE = {
    "vocab.txt": "BertTokenizer",
    "vocab.json": "GPT2Tokenizer",
    "spiece.model": "T5Tokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
}
_DECODER = "added_tokens_decoder"
_LISTS = (_DECODER, "additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def has_tokenizer(folder: pathlib.Path) -> bool:
    """Whether the folder holds any file that a tokenizer is made of."""
    return any([folder_files.has(folder / name) for name in _FILES])


def is_of_task(folder: pathlib.Path) -> bool:
    """Whether the folder's model has a task's head, and so has read post-processed texts."""
    named = _json(folder / "config.json").get("architectures")
    name = named[0] if isinstance(named, list) and len(named) == 1 else ""
    return isinstance(name, str) and name.endswith(HEADS)


# How architectures with the head of a task end: for texts, tags and answers.
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def read(folder: pathlib.Path, tokenizer_json: str = TOKENIZER) -> dict[str, bytes]:
    """Returns a tokenizer.json, and a tokenizer_config.json that names each special token, or null.

    Raises:
      UserError: the folder has no tokenizer, or a file of it is damaged or of an unknown kind.
    """
    path = folder / tokenizer_json
    if not (folder_files.has(path) or has_tokenizer(folder)):
        raise UserError(
            f"{folder} holds no tokenizer: neither {TOKENIZER}, nor {', nor '.join(_FILES[1:])}; "
            "save it again with AutoTokenizer of transformers"
        )
    class_name = tokenizer_choice.class_of(
        path, _json(path.parent / "config.json"), _json(path.parent / CONFIG)
    )
    try:
        said = _said(path)
        made = (_of_json if path.is_file() else _of_vocabulary)(path, class_name, said)
        library, names, tokenizer_class, _ = made
        library.add_tokens(_tokens_to_add(made, said))
        texts = {name: None if token is None else _text(token) for name, token in names.items()}
        if tokenizer_class and tokenizer_class.frame:  # Once all tokens have ids.
            library.post_processor = tokenizer_class.frame(library, texts, said.settings)
        elif said.settings.keys() & {"add_bos_token", "add_eos_token"}:
            library.post_processor = frame_by_flags(library, texts, said.settings)
        texts |= _usual(library, texts, said.settings)
        contents = _contents(path, library)
    except UserError:
        raise
    except Exception as error:  # `tokenizers` raises nothing narrower.
        raise UserError(
            f"{folder}: the files of its tokenizer do not fit together ({_line(error)}); save them "
            "again with AutoTokenizer of transformers"
        ) from None
    return {TOKENIZER: contents, CONFIG: _config(said.settings, texts, tokenizer_class)}


class _Said(NamedTuple):
    """What the files beside a vocabulary say: settings by name, and added tokens by id."""

    settings: dict[str, Any]
    added: dict[int, AddedToken]


def _extra(settings: Mapping[str, Any], kind: type) -> Any:
    """Returns extra special tokens: files have a list of them, or a dict by name."""
    found = settings.get("extra_special_tokens")
    return found if isinstance(found, kind) else kind()


def _said(path: pathlib.Path) -> _Said:
    """Reads tokenizer_config.json, with what older files say besides."""
    folder, settings = path.parent, _settings(path.parent / CONFIG)
    if path.is_file():  # Its post-processor counts, not these.
        settings.pop("add_bos_token", None)
        settings.pop("add_eos_token", None)
    if not settings.get("extra_special_tokens") and "additional_special_tokens" in settings:
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        decoder = settings.pop("added_tokens_decoder")
        added = {int(i): _token(folder / CONFIG, token) for i, token in decoder.items()}
    else:  # Only now do these two count; but then special_tokens_map.json has the last word.
        of_map = _settings(folder / TOKENS_MAP)
        if isinstance(more := of_map.get("extra_special_tokens"), list):
            known = _extra(settings, list)
            of_map["extra_special_tokens"] = [*known, *(x for x in more if x not in known)]
        settings |= of_map
        special = {_text(settings[name]) for name in NAMES if settings.get(name)}
        special |= set(map(_text, _extra(settings, list)))
        for text, token_id in _json(folder / _ADDED).items():
            if type(token_id) is not int:
                raise UserError(
                    f"{folder / _ADDED}: the id of {text!r} is {token_id!r:.40}, which is no whole "
                    "number; restore the file"
                )
            is_special = text in special
            added[token_id] = AddedToken(text, normalized=not is_special, special=is_special)
        with contextlib.suppress(TypeError, KeyError):  # Of a damaged one, as `load_json` says.
            for token in _json(path).get("added_tokens", []):
                added[token["id"]] = _token(path, token)
    return _Said(settings, added)


def _settings(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file of settings; raises UserError where what should be a token is none."""
    settings = dict(_json(path))
    for key in sorted(settings.keys() & {*NAMES, *_LISTS}):
        value = settings[key]
        tokens = [] if value is None else value if key in _LISTS else [value]
        if isinstance(tokens, dict) and (key != _DECODER or all(map(str.isdecimal, tokens))):
            tokens = [*tokens.values()]
        is_listed = isinstance(tokens, list) and (key != _DECODER or isinstance(value, dict))
        if not (is_listed and all(map(_is_token, tokens))):
            raise UserError(
                f"{path}: {key}={value!r:.60} is not what it should be, where tokens are texts or "
                "objects with a content; restore the file"
            )
    return settings


def _is_token(said: Any) -> bool:
    return isinstance(said.get("content") if isinstance(said, dict) else said, str)


class _Made(NamedTuple):
    """A tokenizer before tokens are added to it.

    names: special tokens by name; None for none.
    tokenizer_class: that made it; None where it is what a file says.
    special: the control and user-defined pieces of a SentencePiece model.
    """

    library: tokenizers.Tokenizer
    names: dict[str, AddedToken | str | None]
    tokenizer_class: TokenizerClass | None
    special: Sequence[AddedToken] = ()


def _names(said: _Said, defaults: Mapping[str, str | None]) -> dict[str, AddedToken | str | None]:
    """Returns special tokens by name. What a folder says is null is none, whatever the defaults."""
    by_text = {token.content: token for token in said.added.values()}
    given = {
        name: value
        for name, value in said.settings.items()
        if name in NAMES or (name.endswith("_token") and isinstance(value, str | dict))
    } | _extra(said.settings, dict)
    names: dict[str, AddedToken | str | None] = dict.fromkeys(NAMES) | dict(defaults)
    for name, value in given.items():
        token = _token(None, value) if isinstance(value, dict) else value
        names[name] = None if value is None else by_text.get(_text(value), token)
    return names


def _of_json(path: pathlib.Path, class_name: str, said: _Said) -> _Made:
    """Takes tokenizer.json as it stands, or its vocabulary by the rules of the class."""
    library = _load_json(path)
    defaults = {"pad_token": library.padding["pad_token"]} if library.padding else {}
    parts, tokenizer_class = _json(path), CLASSES.get(class_name)
    if tokenizer_class and (kind := _kind_of(parts)) != tokenizer_class.model:
        say(f"{path}: read as it stands, for it holds a {kind}, which is no {class_name}")
        tokenizer_class = None
    if tokenizer_class is None:
        return _Made(library, _names(said, defaults), None)
    names = _names(said, {**tokenizer_class.names, **defaults})
    built = tokenizer_class.build(_vocabulary_of(parts), said.settings, names)
    if library.post_processor is not None:  # The one step that the class leaves to the file.
        built.post_processor = library.post_processor
    return _Made(built, names, tokenizer_class)


def _load_json(path: pathlib.Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # `tokenizers` raises nothing narrower.
        raise UserError(f"{path} is no {TOKENIZER}: {_line(error)}; restore the file") from None


def _kind_of(parts: dict[str, Any]) -> str:
    """Returns the kind of model of a tokenizer.json; old ones do not name it."""
    model = parts["model"]
    kind = "Unigram" if isinstance(model["vocab"], list) else "WordPiece"
    return model.get("type") or ("BPE" if "merges" in model else kind)


def _vocabulary_of(parts: dict[str, Any]) -> Vocabulary:
    """Returns what a class takes from a tokenizer.json."""
    model = parts["model"]
    if isinstance(model["vocab"], list):
        normalizer = parts.get("normalizer") or {}
        steps = normalizer.get("normalizers", [normalizer])
        charsmaps = (x["precompiled_charsmap"] for x in steps if "precompiled_charsmap" in x)
        charsmap = next(map(base64.b64decode, charsmaps), None)
        return Vocabulary(list(map(tuple, model["vocab"])), None, charsmap)
    # Older files have "a b" for ["a", "b"], in which no piece can hold a space.
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model.get("merges", [])]
    return Vocabulary(model["vocab"], merges)


def _of_vocabulary(path: pathlib.Path, class_name: str, said: _Said) -> _Made:
    """Reads the files that there were before tokenizer.json."""
    folder = path.parent
    if class_name == GENERIC and not (folder / "tokenizer.model").is_file():
        # No class is named: the usual one of the file.
        class_name = next((c for f, c in _CLASS_OF_FILE.items() if (folder / f).is_file()), GENERIC)
    tokenizer_class = CLASSES.get(class_name)
    model_file = folder / "tokenizer.model"  # Whatever the class, it is taken where it is there.
    if not model_file.is_file() and tokenizer_class:
        model_file = folder / tokenizer_class.files[0]
    if model_file.suffix == ".model" and model_file.is_file():
        proto = sentencepiece_files.parse(model_file)
        if tokenizer_class is None:
            return _of_sentencepiece(proto, said)
        names = _names(said, tokenizer_class.names)
        vocabulary = sentencepiece_files.vocabulary(proto, tokenizer_class.model)
        if tokenizer_class.model == "Unigram":
            # Ids are places in the list, which is not always SentencePiece's.
            ordered = tokenizer_class.from_sentencepiece(vocabulary.pieces, said.settings, names)
            vocabulary = vocabulary._replace(pieces=ordered)
        library = tokenizer_class.build(vocabulary, said.settings, names)
        return _Made(library, names, tokenizer_class, vocabulary.special)
    wanted = tokenizer_class.files if tokenizer_class else (TOKENIZER,)
    missing = [name for name in wanted if not folder_files.has(folder / name)]
    if missing:
        raise UserError(
            f"{folder}: {class_name}, which is the class of its tokenizer, is made of "
            f"{' and '.join(wanted)}, and {' and '.join(missing)} is missing; save it again with "
            "AutoTokenizer of transformers, which writes tokenizer.json"
        )
    names = _names(said, tokenizer_class.names)
    vocabulary = _of_text_files(folder, tokenizer_class)
    return _Made(tokenizer_class.build(vocabulary, said.settings, names), names, tokenizer_class)


def _of_text_files(folder: pathlib.Path, tokenizer_class: TokenizerClass) -> Vocabulary:
    first = folder / tokenizer_class.files[0]
    wrong = first
    try:
        if tokenizer_class.model == "WordPiece":
            return Vocabulary(models.WordPiece.read_file(str(first)))
        models.BPE(_json(first), [])  # Fails for the first file alone.
        wrong = folder / tokenizer_class.files[1]
        pieces, merges = models.BPE.read_file(str(first), str(wrong))
        models.BPE(pieces, merges)  # Fails for merges of pieces that the vocabulary lacks.
        return Vocabulary(pieces, merges)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{wrong} is damaged: {_line(error)}; restore the file") from None


def _of_sentencepiece(proto: Any, said: _Said) -> _Made:
    """Reads a tokenizer.model whose folder names no class of its own."""
    trainer = proto.trainer_spec
    defaults = {
        f"{name}_token": getattr(trainer, f"{name}_piece") or usual
        for name, usual in (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"))
        if getattr(trainer, f"{name}_id") >= 0  # -1 for none.
    }
    pieces = {piece.piece for piece in proto.pieces}
    renamed = {i: t.content for i, t in said.added.items() if t.content not in pieces}
    library = sentencepiece_files.build(proto, renamed, legacy=said.settings.get("legacy", True))
    special = sentencepiece_files.vocabulary(proto, "Unigram").special
    return _Made(library, _names(said, defaults), None, [t for t in special if t.special])


def _usual(
    library: tokenizers.Tokenizer, names: dict[str, str | None], settings: dict[str, Any]
) -> dict[str, str]:
    """Finds special tokens that the folder says nothing of, by the names that they usually have."""
    says_ends = any(names[name] or name in settings for name in _ENDS)
    return {
        name: found[0]
        for name, usual in USUAL_NAMES.items()
        if names[name] is None and name not in settings and not (says_ends and name in _ENDS)
        if (found := [text for text in usual if library.token_to_id(text) is not None])
    }


def _tokens_to_add(made: _Made, said: _Said) -> list[AddedToken]:
    """Lists what stands beside the vocabulary, in the order in which it gets its ids."""
    tokens = [token for _, token in sorted(said.added.items())]
    named = [token for token in made.names.values() if token is not None]
    if isinstance(said.settings.get("extra_special_tokens"), list):
        extra = _extra(said.settings, list)
    elif made.tokenizer_class:  # A dict gives names, which are held already.
        extra = made.tokenizer_class.extra(said.settings, made.special)
    else:
        extra = made.special
    held = {token.content for token in made.library.get_added_tokens_decoder().values()}
    held |= {token.content for token in tokens}
    for token in [*named, *extra]:
        if _text(token) not in held:
            held.add(_text(token))
            tokens.append(_token(None, token))
    names = {_text(token) for token in named}
    for token in tokens:
        token.special = token.special or token.content in names
    return tokens


def _contents(path: pathlib.Path, library: tokenizers.Tokenizer) -> bytes:
    """Returns tokenizer.json as it was, to the byte, where it already says what is read of it."""
    library.no_padding()  # Both settings would change the ids of a text.
    library.no_truncation()
    contents = library.to_str().encode()
    if path.is_file() and _load_json(path).to_str().encode() == contents:
        return path.read_bytes()
    return contents


def _config(
    settings: dict[str, Any], names: dict[str, str | None], tokenizer_class: TokenizerClass | None
) -> bytes:
    """Makes tokenizer_config.json for a class that takes tokenizer.json as it stands."""
    spent = ("added_tokens_decoder", "auto_map", "add_bos_token", "add_eos_token", *names)
    config = {name: value for name, value in settings.items() if name not in spent}
    config |= {name: text for name, text in names.items() if name.endswith("_token")}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if tokenizer_class and tokenizer_class.input_names:
        config.setdefault("model_input_names", tokenizer_class.input_names)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _json(path: pathlib.Path) -> dict[str, Any]:
    """Returns a file's object, {} where there is no file; raises UserError if it holds none."""
    return folder_files.json_object(path, path.read_bytes()) if folder_files.has(path) else {}


def _token(path: pathlib.Path | None, said: AddedToken | str | dict[str, Any]) -> AddedToken:
    """Reads one of the spellings that files have: text, or an object."""
    if isinstance(said, AddedToken):
        return said
    if isinstance(said, str):
        return AddedToken(said, special=True)
    flags = {name: bool(said[name]) for name in _FLAGS if name in said}
    return AddedToken(said["content"], **{"special": path is None, **flags})


def _text(said: AddedToken | str | dict[str, Any]) -> str:
    if isinstance(said, AddedToken):
        return said.content
    return said if isinstance(said, str) else said["content"]
