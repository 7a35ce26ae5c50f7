"""Folders of `transformers` of every kind, beside what its AutoTokenizer makes of them."""

import hashlib
import json

import numpy as np
import pytest
import tokenizers as hf
import transformers
from tokenizers import models, pre_tokenizers

from lm.errors import UserError
from lm.loading import run_folder
from lm.models.families import FAMILIES
from lm.tasks.text import TextInputs
from lm.tokenizers import tokenizer_folder, tokenizers
from tests import tokenizer_folders
from tests.tokenizer_folders import KINDS, write


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A folder, what transformers makes of it, and what we do."""
    folder = tmp_path_factory.mktemp("folder")
    KINDS[request.param](folder)
    return folder, transformers.AutoTokenizer.from_pretrained(folder), tokenizers.load_file(folder)


def test_ids_are_those_of_transformers(both):
    _, theirs, ours = both
    assert ours.vocab_size == len(theirs)
    assert_same_ids(theirs, ours)


def assert_same_ids(theirs, ours):
    texts = tokenizer_folders.texts()
    expected = theirs(texts, add_special_tokens=False).input_ids
    assert len(set(map(str, expected))) > 150
    for text, a, b in zip(texts, expected, ours.encode_batch(texts), strict=True):
        assert b.tolist() == a, repr(text)


def test_special_tokens_are_those_of_transformers(both):
    folder, theirs, ours = both
    names = json.loads(tokenizer_folder.read(folder)["tokenizer_config.json"])
    for name in ("bos", "eos", "unk", "sep", "cls", "pad", "mask"):
        expected, found = getattr(theirs, f"{name}_token"), names[f"{name}_token"]
        # Where the folder says nothing at all of it, a usual name is taken.
        unsaid = expected is None and found in tokenizer_folder.USUAL_NAMES.get(f"{name}_token", ())
        assert found == expected or unsaid, name
    for token_id, first in ((ours.bos_id, "bos"), (ours.eos_id, "eos")):
        other = {"bos": "cls", "eos": "sep"}[first]
        text = names[f"{first}_token"] or names[f"{other}_token"]
        assert token_id == (None if text is None else theirs.convert_tokens_to_ids(text))


def test_texts_stand_within_what_the_post_processor_of_transformers_writes(both):
    _, theirs, ours = both
    inside = ours.encode_batch(["the"])[0].tolist()
    assert [*ours.prefix_ids, *inside, *ours.suffix_ids] == theirs("the").input_ids
    if not ours.suffix_ids or ours.eos_id is None:
        return  # A task needs a token at the end, which this one does not write.
    inputs = TextInputs(ours, FAMILIES["bert"], num_types=2, seq_len=64, truncate=False)
    for texts in (("the fox",), ("the fox", "北京, ok")):
        features = inputs.encode("it", texts)
        expected = theirs(*texts, return_token_type_ids=True)
        assert features["tokens_BL"].tolist() == expected.input_ids
        assert features["types_BL"].tolist() == expected.token_type_ids


def test_what_was_saved_is_the_same(both, tmp_path):
    _, _, ours = both
    ours.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    same = ("fingerprint", "vocab_size", "pad_id", "bos_id", "eos_id", "mask_id", "unk_id")
    for name in (*same, "prefix_ids", "suffix_ids"):
        assert getattr(loaded, name) == getattr(ours, name), name
    texts = tokenizer_folders.texts(60)
    for a, b in zip(loaded.encode_batch(texts), ours.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.frame(2) == ours.frame(2)


def test_null_is_none_and_what_is_unsaid_may_be_usual(tmp_path):
    tokenizer_folders.byte_level(tmp_path, bos_token=None, eos_token="</s>", pad_token=None)
    tokenizer = tokenizers.load_file(tmp_path)
    assert (tokenizer.bos_id, tokenizer.pad_id) == (None, None)
    assert tokenizer.eos_id == tokenizer.id_of("</s>")

    write(tmp_path, "tokenizer_config.json", {"eos_token": "</s>"})
    assert tokenizers.load_file(tmp_path).bos_id is None  # Who names one names all there are.
    assert tokenizers.load_file(tmp_path).pad_id == tokenizer.id_of("<pad>")

    (tmp_path / "tokenizer_config.json").unlink()
    bare = tokenizers.load_file(tmp_path / "tokenizer.json")
    assert (bare.bos_id, bare.eos_id) == (tokenizer.id_of("<s>"), tokenizer.id_of("</s>"))


def test_a_map_of_special_tokens_counts_where_no_added_tokens_are_listed(tmp_path):
    tokenizer_folders.byte_level(tmp_path)
    write(tmp_path, "special_tokens_map.json", {"bos_token": {"content": "<mask>"}})
    name = lambda: tokenizers.load_file(tmp_path).piece(tokenizers.load_file(tmp_path).bos_id)
    theirs = lambda: transformers.AutoTokenizer.from_pretrained(tmp_path).bos_token
    assert name() == theirs() == "<mask>"
    tokenizer_folders.byte_level(tmp_path, added_tokens_decoder={})
    assert name() == theirs() == "<s>"


def test_a_folder_with_a_dot_in_its_name_is_a_folder(tmp_path):
    for name in ("model-3.2", "model.json"):
        (tmp_path / name).mkdir()
        tokenizer_folders.byte_level(tmp_path / name)
        assert tokenizers.load_file(tmp_path / name).vocab_size == 420


def test_a_run_of_before_keeps_its_ids_and_its_name(tmp_path):
    """Runs had the files as they were, in which null was not yet none, and framed by two ids."""
    source, run = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    tokenizer_folders.byte_level(source, bos_token=None, cls_token="<mask>", sep_token="<unk>")
    files = {name: (source / name).read_bytes() for name in ("tokenizer.json",)}
    files["tokenizer_config.json"] = (source / "tokenizer_config.json").read_bytes()
    for name, contents in files.items():
        write(run, name, contents)
    write(run, "kind.txt", "file\n")

    for tokenizer in (tokenizers.load(run), tokenizers.load_file(run / "tokenizer.json")):
        assert tokenizer.piece(tokenizer.bos_id) == "<s>"
        digest = hashlib.sha256(files["tokenizer.json"] + files["tokenizer_config.json"])
        assert tokenizer.fingerprint == f"tokenizer.json {digest.hexdigest()}"
        assert tokenizer.frame(2).special_ids == ((0,), (1,), (1,))
    tokenizer.save(tmp_path / "again")
    assert tokenizers.load(tmp_path / "again").fingerprint == tokenizer.fingerprint
    assert tokenizers.load_file(source).piece(tokenizers.load_file(source).bos_id) == "<mask>"


A, B, END = (
    {"Sequence": {"id": "A", "type_id": 0}},
    {"Sequence": {"id": "B", "type_id": 1}},
    {"SpecialToken": {"id": "</s>", "type_id": 0}},
)


@pytest.mark.parametrize(
    "single, pair",
    [([], []), ([A, END], []), ([A, END, A], [A, B]), ([END], [A, B]), ([A], [B, A])],
)
def test_a_frame_that_does_not_hold_each_text_once_is_refused(single, pair, tmp_path):
    KINDS["byte-level"](tmp_path)
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    special = {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}
    frame = {"type": "TemplateProcessing", "single": single, "pair": pair}
    frame["special_tokens"] = special
    write(tmp_path, "tokenizer.json", parts | {"post_processor": frame})
    assert f"{tmp_path}: the post_processor of its tokenizer.json" in line_of(tmp_path)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_text_inside_of_another_keeps_its_spaces(legacy, tmp_path):
    tokenizer_folders.llama_model(tmp_path, legacy=legacy)
    tokenizer = tokenizers.load_file(tmp_path)
    for text in ("fox", " fox", "  fox"):
        ids = tokenizer.encode_inside([text])[0]
        assert b"".join(map(tokenizer.raw, ids)).decode() == text


DAMAGE = {
    "tokenizer.json": ("byte-level", b"{}", "tokenizer.json is no tokenizer.json"),
    "tokenizer.json, cut": ("byte-level", b'{"model": ', "tokenizer.json is no"),
    "tokenizer_config.json": ("byte-level", b"[1]", "tokenizer_config.json holds no object"),
    "special_tokens_map.json": ("byte-level", b"\xff", "special_tokens_map.json is no JSON"),
    "added_tokens.json": ("vocab.json", b"{,}", "added_tokens.json is no JSON"),
    "config.json": ("vocab.txt", b"model", "config.json is no JSON"),
    "config.json, lists": ("vocab.txt", b'{"model_type": ["bert"]}', "model_type=['bert'] is no"),
    "config.json, deep": ("vocab.txt", b"[" * 100_000, "config.json is no JSON"),
    "tokenizer_config.json, deep": ("byte-level", b"[" * 100_000, "tokenizer_config.json is no"),
    "generation_config.json, deep": ("byte-level", b"[" * 100_000, "generation_config.json is no"),
    "vocab.txt": ("vocab.txt", b"\xff\xfe\x00", "vocab.txt is damaged"),
    "vocab.json": ("vocab.json", b"nonsense", "vocab.json is no JSON"),
    "vocab.json, lists": ("vocab.json", b'{"a": [1]}', "vocab.json is damaged"),
    "merges.txt": ("vocab.json", b"#version: 0.2\none two three\n", "merges.txt is damaged"),
    "merges.txt, unknown": (
        "vocab.json",
        "\u00e9\u00e9 \u4e2d\n".encode(),
        "merges.txt is damaged",
    ),
    "spiece.model": ("spiece.model", b"\x0a\x05nonsense", "spiece.model is no SentencePiece"),
    "tokenizer.model": ("tokenizer.model", b"", "tokenizer.model is no SentencePiece"),
}


_WRONG = {
    **{name: [5, [1], {}, {"content": 5}, True] for name in ("bos_token", "pad_token")},
    "added_tokens_decoder": [[1], 5, None, {"x": "a"}, {"1": 5}, {"1": {"special": True}}],
    "extra_special_tokens": [5, "a", [1], [{}], {"a": 1}],
    "additional_special_tokens": [5, [None]],
}
DAMAGE |= {
    f"{file}, {key}={value}": (
        "byte-level",
        json.dumps({key: value}).encode(),
        f"{file}: {key}={value!r} is not what it should be",
    )
    for key, values in _WRONG.items()
    for value in values
    for file in ("tokenizer_config.json", "special_tokens_map.json")
    if file != "special_tokens_map.json" or key in ("bos_token", "extra_special_tokens")
}
DAMAGE |= {
    "tokenizer_config.json, UTF-16": (
        "byte-level",
        "{}".encode("utf-16"),
        "no JSON ('utf-8' codec",
    ),
    "added_tokens.json, ids": ("vocab.json", b'{"a": "1"}', "added_tokens.json: the id of 'a' is"),
    "tokenizer.json, tokens": ("byte-level", b'{"added_tokens": [1]}', "tokenizer.json is no"),
    "tokenizer.json, no id": ("byte-level", b'{"added_tokens": [{}]}', "tokenizer.json is no"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_in_one_line(name, tmp_path):
    kind, contents, says = DAMAGE[name]
    KINDS[kind](tmp_path)
    write(tmp_path, name.split(",")[0], contents)
    assert says in line_of(tmp_path)


@pytest.mark.parametrize(
    "kind, name",
    [("vocab.json", "merges.txt"), ("roberta", "vocab.json"), ("t5", "tokenizer.json")],
)
def test_a_missing_file_is_named_in_one_line(kind, name, tmp_path):
    KINDS[kind](tmp_path)
    (tmp_path / name).unlink()
    assert name in line_of(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
        "tokenizer.json",
        "vocab.txt",
    ],
)
def test_what_is_no_file_is_not_taken_for_an_absent_one(name, tmp_path):
    KINDS["vocab.txt"](tmp_path)
    for place in ("tokenizer_config.json", name):
        (tmp_path / place).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("gone")
    assert f"{tmp_path / name} is a link to nothing" in line_of(tmp_path)

    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert f"{tmp_path / name} is no file" in line_of(tmp_path)


def line_of(folder):
    with pytest.raises(UserError) as caught:
        tokenizers.load_file(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("knows_bytes", [True, False])
def test_a_unigram_that_would_fail_with_some_text_is_refused(knows_bytes, tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.Unigram([(letter, -2.0) for letter in (letters if knows_bytes else "abc")])
    library = hf.Tokenizer(model)
    if knows_bytes:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.save(str(tmp_path / "tokenizer.json"))

    if knows_bytes:
        assert len(tokenizers.load_file(tmp_path).encode_batch(["北京 a"])[0]) == 8
        return
    with pytest.raises(UserError, match=rf"{tmp_path}.*tokenizer.json.* give its model an unk_id"):
        tokenizers.load_file(tmp_path)
    with pytest.raises(Exception, match="unk_id"):
        library.encode("d")


def test_a_run_whose_tokenizer_is_a_link_to_nothing_is_not_one_of_bytes(tmp_path):
    (tmp_path / "tokenizer").symlink_to(tmp_path / "not mounted")
    for read in (run_folder.tokenizer_block, lambda run: tokenizers.load(run / "tokenizer")):
        with pytest.raises(UserError, match="tokenizer is a link to nothing"):
            read(tmp_path)
