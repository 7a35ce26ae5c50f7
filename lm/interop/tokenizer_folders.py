"""The tokenizer of a folder of `transformers`, from whichever files it has."""

import pathlib

import tokenizers as tokenizers_lib

from lm.data import stop_ids, tokenizers
from lm.errors import UserError
from lm.workdir import read_json


def load(source: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder.

    Raises:
      UserError: it has none, or its files are damaged.
    """
    if (source / "tokenizer.json").exists():
        return tokenizers.load_file(source / "tokenizer.json")
    if (source / "vocab.txt").exists():
        return _as_file(source, _word_pieces(source))
    vocabulary, merges = source / "vocab.json", source / "merges.txt"
    if not (vocabulary.exists() and merges.exists()):
        raise UserError(
            f"{source} holds no tokenizer: neither tokenizer.json, nor vocab.txt, nor vocab.json "
            "with merges.txt; save it again with AutoTokenizer of transformers"
        )
    library = tokenizers_lib.ByteLevelBPETokenizer(str(vocabulary), str(merges))
    special = tokenizers_lib.AddedToken("<|endoftext|>", special=True, normalized=False)
    if library.token_to_id(special.content) is not None:
        library.add_special_tokens([special])
    return _as_file(source, library)


def _word_pieces(source: pathlib.Path) -> tokenizers_lib.BertWordPieceTokenizer:
    """BERT's own, which lowers case unless tokenizer_config.json says otherwise."""
    path = source / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    library = tokenizers_lib.BertWordPieceTokenizer(
        str(source / "vocab.txt"), lowercase=settings.get("do_lower_case", True)
    )
    library.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return library


def _as_file(source: pathlib.Path, library) -> tokenizers.Tokenizer:
    """A tokenizer of the library, as the tokenizer.json that it would be saved as."""
    files = {"tokenizer.json": library.to_str().encode()}
    return tokenizers.HuggingFaceTokenizer(files | stop_ids.read(source))
