"""What a corpus holds is counted while it is prepared, and long documents are cut."""

import gzip
import json
import tracemalloc
import unicodedata

import numpy as np
import pytest

from lm.corpus import (
    documents,
    lost_characters,
    sources,
    split_counts,
    tokenization,
    tokenizer_kinds,
)
from lm.corpus.documents import Document, cut_long
from lm.corpus.preparation import prepare
from lm.corpus.sources import in_both
from lm.errors import UserError
from tests import tiny_tokenizers

PROSE = (
    "The quick brown fox  jumps over the lazy dog;\n\nthe thing was unbelievable. She did not\n"
    "believe it, and Die Straße in München ist schön: 12 345 6 things. 北京是中国的首都，hello 北\n"
    "    return  x\t\n"
) * 3


def write(folder, name, texts):
    (folder / name).write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(folder / name)


def make(folder, texts, held_out, **changes):
    return prepare(
        **dict(
            source="jsonl",
            train=write(folder, "train.jsonl", texts),
            validation=write(folder, "validation.jsonl", held_out),
            field="text",
            seq_len=16,
            add_bos=False,
            add_eos=False,
            on_error="raise",
            tokenizer=dict(kind="bytes"),
            cache_dir=folder / "cache",
            num_processes=1,
        )
        | changes
    )


def saved(folder, kind):
    """The `tokenizer` block of one of the tiny tokenizers."""
    tiny_tokenizers.tokenizer_of(kind).save(folder)
    if kind == "bytes":
        return dict(kind="bytes")
    (file,) = [f for f in folder.iterdir() if f.name in ("tokenizer.json", "sentencepiece.model")]
    return dict(kind="file", path=str(file))


# Some character of `tiny_tokenizers.TEXTS` does not come back: two of those that are built on the
# mark U+2581 give it back as a space.
LOSSY = ("sentencepiece nfkc", "bert", "t5", "xlm-r", "llama", "unigram bytes")


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_characters_that_do_not_come_back_are_counted(tmp_path, kind):
    texts = tiny_tokenizers.TEXTS
    prepared = make(tmp_path, texts, texts, tokenizer=saved(tmp_path, kind))
    info = prepared.splits["validation"]

    assert info.num_chars == sum(map(len, texts))
    assert (info.num_lost_chars > 0) == (kind in LOSSY)
    assert (split_counts.no_bits_per_byte(info) != "") == (kind in LOSSY)
    assert ("does not give back" in "".join(split_counts.notes(prepared.splits))) == (kind in LOSSY)
    if kind in ("llama", "unigram bytes"):
        assert "'\u2581'" in info.lost_chars
    if kind in LOSSY:  # Text that does come back counts as whole all the same.
        tokenizer = tiny_tokenizers.tokenizer_of(kind)
        plain = "the things"
        assert tokenizer.decode(tokenizer.encode_batch([plain])[0]).strip() == plain
        again = make(tmp_path, texts, [plain], tokenizer=saved(tmp_path, kind))
        assert split_counts.no_bits_per_byte(again.splits["validation"]) == ""


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_most_lossless_tokenizers_are_known_without_decoding(kind):
    seen = lost_characters.is_lossless(tiny_tokenizers.tokenizer_of(kind))
    assert seen == (kind in ("bytes", "sentencepiece", "sentencepiece llama", "gpt2"))


LOST = {  # What a word-piece tokenizer that lower-cases and strips accents makes of it.
    "a lower case": "",
    "A B": "AB",
    "Ébé": "Éé",
    "don't": "  ",  # Two that are put in.
    "dog  cat,emu": "d",  # A space in another place: the first character.
    "a,b": " ",
    "中文字": "  ",
    "中文 字": " ",
    "x☃☃ y": "x☃☃ ",  # All of an unknown word, and the space that tells it from the next.
}


@pytest.mark.parametrize("text", LOST)
def test_what_is_lost_is_named(text):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = {c: i for i, c in enumerate(["[UNK]", *"abcdefghijklmnopqrstuvwxyz',中文字"])}
    vocab = letters | {f"##{c}": 100 + i for c, i in letters.items() if len(c) == 1}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    from lm.tokenizers.tokenizers import HuggingFaceTokenizer

    ours = HuggingFaceTokenizer({"tokenizer.json": tokenizer.to_str().encode()})
    (ids,) = ours.encode_batch([text])
    lost = lost_characters.find(ours, text, ids.tolist())
    assert sorted(lost.elements()) == sorted(LOST[text])


DOCUMENTS = ["one text", "another", "", "  \n", "one text", "the third"]
SHARED = {  # Validation documents; how many of them training has.
    ("one text",): 1,
    ("one text", "one text\n", " one text"): 3,
    ("one  text", "One text", "one", "x" * 9): 0,
    ("new", "another", "newer"): 1,
    ("", "new"): 0,
}


@pytest.mark.parametrize("validation", SHARED)
def test_documents_in_both_splits_and_empty_ones_are_counted(tmp_path, validation):
    prepared = make(tmp_path, DOCUMENTS, validation)

    info = prepared.splits["validation"]
    assert info.num_shared == SHARED[validation]
    known = [t for t in validation if t.strip() and t.strip() in DOCUMENTS]
    assert info.num_shared_bytes == sum(map(len, known))
    assert prepared.splits["train"].num_empty == 2
    assert info.num_empty == validation.count("")
    said = "\n".join(split_counts.notes(prepared.splits))
    assert "train: 2 of 6 documents are empty" in said
    assert ("in the training data too" in said) == bool(SHARED[validation])


def test_one_file_for_both_splits_is_found(tmp_path):
    a, b, c = (write(tmp_path, f"{n}.jsonl", [n, "x"]) for n in "abc")
    copy = tmp_path / "copy.json"
    copy.write_bytes((tmp_path / "b.jsonl").read_bytes())
    (tmp_path / "link.jsonl").symlink_to(a)
    assert in_both("jsonl", f"{tmp_path}/*.jsonl", a) == [a]
    assert in_both("text", f"{a},{b}", (c, str(copy))) == [str(copy)]
    assert in_both("jsonl", a, f"{tmp_path}/link.jsonl") == [f"{tmp_path}/link.jsonl"]
    assert in_both("files", a, b) == in_both("python_stdlib", "", "") == []


@pytest.mark.parametrize("specials", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("texts", [[""], ["", ""]])
def test_validation_without_text_is_refused_before_it_is_cached(tmp_path, texts, specials):
    for _ in range(2):
        with pytest.raises(UserError, match=r"the validation split of .* holds no text"):
            make(tmp_path, ["text"], texts, add_bos=specials[0], add_eos=specials[1])


def test_a_cache_of_an_older_version_gives_no_number_that_it_cannot_vouch_for(tmp_path):
    for kind, counted in (("gpt2", True), ("unigram bytes", False)):
        (tmp_path / kind).mkdir()
        arguments = dict(tokenizer=saved(tmp_path / kind, kind))
        prepared = make(tmp_path / kind, ["text"], ["another"], **arguments)
        path = prepared.folder / "meta.json"
        meta = json.loads(path.read_text())
        old = ("num_rows", "num_tokens", "num_documents", "num_bytes")
        old += ("num_predicted_bytes", "num_skipped")
        for info in meta["splits"].values():
            for name in set(info) - set(old):
                del info[name]
        path.write_text(json.dumps(meta))
        (prepared.folder / "manifest.json").unlink()

        again = make(tmp_path / kind, ["text"], ["another"], **arguments)

        info = again.splits["validation"]
        assert again.hash == prepared.hash and info.num_shared is None
        assert split_counts.notes(again.splits) == []
        assert ("an older version" in split_counts.no_bits_per_byte(info)) != counted


# Long documents -----------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """Documents of more than 60 characters are long."""
    monkeypatch.setattr(documents, "LONG_CHARS", 60)
    monkeypatch.setattr(documents, "_NEAR", 20)


@pytest.mark.parametrize("size", [1, 7, 59, 60, 61, 1000])
def test_parts_depend_on_the_text_alone_and_make_it_up(short, size):
    others = ["short", "", "x" * 200, "😀\u200d😀" * 60, "e\u0301" * 100, "中" * 61, "a " * 100]
    for text in [PROSE, *others]:
        (one,) = {tuple(cut_long([Document(text, "n")]))}
        blocks = [text[i : i + size] for i in range(0, len(text), size)]
        streamed = [Document(block, "n", True) for block in blocks] + [Document("", "n")]
        parts = list(cut_long(streamed))

        assert tuple(parts) == one
        assert "".join(part.text for part in parts) == text
        assert [part.goes_on for part in parts] == [True] * (len(parts) - 1) + [False]
        assert all(len(part.text) <= 60 for part in parts)
        assert not any(unicodedata.combining(part.text[0]) for part in parts[1:])


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_tokens_do_not_tell_that_a_document_was_cut(short, tmp_path, kind):
    tokenizer = tiny_tokenizers.tokenizer_of(kind)
    tokenizer.save(tmp_path)
    texts = [PROSE, "a short one", " two  words" * 30, "", "word " * 50]
    with tokenization.tokenizing(tmp_path, 1) as tokenize:
        parts = list(tokenize(Document(text, "n") for text in texts))
    whole, held = [], []
    for part in parts:
        held.append(part.tokens)
        if not part.goes_on:
            whole.append(np.concatenate(held).tolist())
            held = []
    assert len(parts) > 10
    assert whole == [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    uncut = [lost_characters.find(tokenizer, t, ids) for t, ids in zip(texts, whole, strict=True)]
    assert any(part.lost for part in parts) == any(uncut)


def test_a_long_file_is_prepared_as_a_record_of_the_same_text(short, tmp_path):
    (tmp_path / "a.txt").write_text(PROSE)
    (tmp_path / "b.txt").write_text("other")
    files = dict(train=f"{tmp_path}/a.txt", validation=f"{tmp_path}/b.txt")
    settings = dict(source="text", field="") | files
    from_file = make(tmp_path, [PROSE], ["other"], **settings)
    from_record = make(tmp_path, [PROSE], ["other"])

    assert from_file.splits == from_record.splits
    assert from_file.splits["train"].num_documents == 1
    rows = [sorted((p.folder / "packed_rows").rglob("*train*")) for p in (from_file, from_record)]
    assert [path.read_bytes() for path in rows[0]] == [path.read_bytes() for path in rows[1]]
    assert make(tmp_path, [PROSE], [PROSE + "\n"]).splits["validation"].num_shared == 1


def test_a_sample_of_a_document_in_parts_is_that_of_the_whole():
    text = PROSE * 500
    parts = [Document(text[i : i + 33_333], "n", True) for i in range(0, len(text), 33_333)]
    whole = tokenizer_kinds.sample([Document(text, "n"), Document("b", "m")], 10**9)
    assert tokenizer_kinds.sample([*parts, Document("", "n"), Document("b", "m")], 10**9) == whole


LIMITED = {"a.txt": bytes, "a.txt.gz": gzip.compress}


@pytest.mark.parametrize("name", LIMITED)
def test_unpacking_ends_at_a_limit_that_can_be_set(tmp_path, name):
    (tmp_path / name).write_bytes(LIMITED[name](b"word " * 2_000))
    (tmp_path / "b.txt").write_text("good")
    files = dict(train=f"{tmp_path}/*.txt*", validation=f"{tmp_path}/b.txt")
    settings = dict(source="text", field="") | files
    with pytest.raises(UserError, match=f"{name}: is longer than data.max_document_bytes=1,000;"):
        make(tmp_path, [], [], **settings, max_document_bytes=1000)
    prepared = make(tmp_path, [], [], **settings, max_document_bytes=1000, on_error="skip")
    assert prepared.splits["train"].num_skipped == prepared.splits["train"].num_documents == 1
    larger = make(tmp_path, [], [], **settings, max_document_bytes=10**6, on_error="skip")
    assert larger.splits["train"].num_documents == 2 and larger.hash != prepared.hash


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packer", [bytes, gzip.compress])
def test_memory_does_not_grow_with_a_document(tmp_path, monkeypatch, packer):
    for module in (documents, sources):
        monkeypatch.setattr(module, "LONG_CHARS", 5_000)
    monkeypatch.setattr(tokenization, "_CHUNK_CHARS", 5_000)
    suffix = ".txt.gz" if packer is gzip.compress else ".txt"
    (tmp_path / "v.txt").write_text("held out")
    peaks = []
    for size in (50_000, 50_000, 300_000):  # The first also fills caches.
        (tmp_path / f"a{size}{suffix}").write_bytes(packer(b"abcd efgh " * (size // 10)))
        files = dict(train=f"{tmp_path}/a{size}{suffix}", validation=f"{tmp_path}/v.txt")
        settings = dict(source="text", field="", seq_len=1024, cache_dir=tmp_path / f"{len(peaks)}")
        peaks.append(peak_bytes(lambda s=settings | files: make(tmp_path, [], [], **s)))
    assert peaks[2] - peaks[1] < 60_000, peaks
