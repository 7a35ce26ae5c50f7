import pytest

from lm.corpus.documents import Document
from lm.corpus.preparation import prepare
from lm.corpus.tokenizer_kinds import keep_tokenizer
from lm.errors import UserError
from lm.tokenizers import tokenizers

BYTES = dict(kind="bytes")
PIECES = dict(
    kind="sentencepiece",
    algorithm="bpe",
    vocab_size=300,
    user_symbols=(),
    character_coverage=0.9995,
    mask=False,
    num_sentinels=0,
)
ENGLISH = "the cat sat on the mat, and the dog lay on the rug\n" * 9
CHINESE = "猫坐在垫子上，狗趴在地毯上。猫和狗都睡着了。\n" * 9


def corpus(folder, text):
    folder.mkdir()
    (folder / "train.txt").write_text(text)
    (folder / "validation.txt").write_text(text[:30])
    return dict(
        source="text",
        train=f"{folder}/train.txt",
        validation=f"{folder}/validation.txt",
        field="",
        seq_len=16,
        add_bos=True,
        add_eos=True,
        on_error="raise",
        num_processes=1,
    )


@pytest.mark.parametrize("kind", [BYTES, PIECES], ids=["bytes", "sentencepiece"])
def test_another_corpus_is_prepared_with_the_same_tokenizer(kind, tmp_path):
    cache = tmp_path / "cache"
    english = prepare(**corpus(tmp_path / "en", ENGLISH), tokenizer=kind, cache_dir=cache)
    block = english.tokenizer_block

    chinese = prepare(**corpus(tmp_path / "zh", CHINESE), tokenizer=block, cache_dir=cache)

    assert chinese.tokenizer.fingerprint == english.tokenizer.fingerprint
    assert chinese.hash != english.hash


def test_a_tokenizer_of_several_corpora_is_trained_once(tmp_path):
    reads = []

    def documents():
        reads.append(None)
        return iter([Document(ENGLISH, "en"), Document(CHINESE, "zh")])

    keep = lambda fingerprint: keep_tokenizer(PIECES, documents, lambda: fingerprint, tmp_path)
    block = keep("both")

    assert keep("both") == block and len(reads) == 1
    assert keep("others") != block and len(reads) == 2
    trained = tokenizers.load_file(block["path"])
    assert trained.decode(trained.encode_batch([CHINESE])[0]) == CHINESE
    assert {" the", "猫"} <= {trained.piece(i) for i in range(trained.vocab_size)}
    assert keep_tokenizer(BYTES, documents, lambda: "both", tmp_path) == BYTES and len(reads) == 2


def test_a_tokenizer_that_learns_from_nothing_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no text"):
        keep_tokenizer(PIECES, lambda: iter([Document("", "empty")]), lambda: "", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
