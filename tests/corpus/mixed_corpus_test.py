import shutil

import numpy as np
import pytest

from lm.corpus import mixed_corpus, preparation
from lm.corpus.batches import Batches, evaluation_batches
from lm.errors import UserError

SHARED = dict(seq_len=16, add_bos=True, add_eos=True, on_error="raise", num_processes=1)
BYTES = dict(kind="bytes")
FIELDS = ("tokens_BL", "next_BL", "segment_ids_BL", "positions_BL", "ids_B")
NUM_STEPS, BATCH_SIZE = 40, 8
SIZES = {"en": 40, "zh": 12, "de": 1}  # Documents of training, each of a row or two.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(0)
    for name, count in SIZES.items():
        alphabet = "".join(map(chr, range(0x4E00, 0x4E20))) if name == "zh" else "abcdefgh "
        for split in ("train", "validation"):
            (folder / name / split).mkdir(parents=True)
            for i in range(count):
                text = "".join(rng.choice([*alphabet], size=rng.integers(5, 20)))
                (folder / name / split / f"{i}.txt").write_text(f"{name} {text}")
    return folder


def block(folder, name, weight=1.0, max_epochs=0.0):
    place = dict(train=f"{folder}/{name}/train/*", validation=f"{folder}/{name}/validation/*")
    return dict(source="text", field="", weight=weight, max_epochs=max_epochs, **place)


def prepare(folder, tokenizer=BYTES, temperature=0.0, stages=(), more=None, **weights):
    sources = {name: block(folder, name, weight) for name, weight in weights.items()}
    return mixed_corpus.prepare(
        sources=sources | (more or {}),
        mixture=dict(temperature=temperature, stages=stages),
        tokenizer=tokenizer,
        cache_dir=folder / "cache",
        **SHARED,
    )


def batches(prepared, num_steps=NUM_STEPS, seed=0, batch_size=BATCH_SIZE):
    mixture = prepared.mixture(num_steps, batch_size)
    return Batches(prepared, "train", batch_size=batch_size, seed=seed, mixture=mixture)


def rows_by_source(batches, prepared):
    """What a run sees of each source, as rows of that source, in order."""
    ids = np.concatenate([batches.rows_at(step) for step in range(NUM_STEPS)])
    ends = np.cumsum([p.splits["train"].num_rows for p in prepared.corpora.values()])
    found = {}
    for name, start, end in zip(prepared.corpora, [0, *ends], ends, strict=False):
        found[name] = ids[(ids >= start) & (ids < end)] - start
    return found


def assert_same(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


@pytest.fixture(scope="module")
def three(folder):
    return prepare(folder, en=3.0, zh=4.0, de=1.0)


def test_each_source_comes_as_often_as_its_weight_says(three):
    found = rows_by_source(batches(three), three)
    assert {name: len(rows) for name, rows in found.items()} == {"de": 40, "en": 120, "zh": 160}


def test_each_epoch_of_a_source_has_every_row_once_in_an_order_of_its_own(three):
    for name, rows in rows_by_source(batches(three), three).items():
        num_rows = three.corpora[name].splits["train"].num_rows
        epochs = [rows[i : i + num_rows] for i in range(0, len(rows) - num_rows + 1, num_rows)]
        assert len(epochs) >= 2
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(num_rows))
        if num_rows > 2:
            assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("stages", [(), ((0.0, {"en": 1.0}), (0.25, {"en": 0.5}))])
def test_one_source_gives_the_batches_that_it_gives_by_itself(folder, stages):
    mixed = prepare(folder, en=1.0, stages=stages)
    plain = preparation.prepare(
        source="text",
        train=f"{folder}/en/train/*",
        validation=f"{folder}/en/validation/*",
        field="",
        tokenizer=BYTES,
        cache_dir=folder / "cache",
        **SHARED,
    )
    alone = Batches(plain, "train", batch_size=BATCH_SIZE, seed=3)
    assert mixed.corpora["en"].folder == plain.folder  # Nothing is prepared twice.
    for a, b in zip(
        batches(mixed, seed=3).iterate(0, NUM_STEPS), alone.iterate(0, NUM_STEPS), strict=True
    ):
        assert_same(a, b)


@pytest.mark.parametrize("first", [0, 1, 17, 39])
def test_batches_do_not_depend_on_where_a_run_goes_on(three, first, monkeypatch):
    monkeypatch.setattr("lm.corpus.batches._ROWS_AT_ONCE", 20)
    of_run = batches(three)
    found = list(of_run.iterate(first, NUM_STEPS))
    assert len(found) == NUM_STEPS - first
    for step, batch in enumerate(found, start=first):
        assert_same(batch, of_run.batch_at(step))


def test_hosts_make_up_the_global_batch(three):
    of_run = batches(three)
    for step in (0, 13):
        whole = of_run.batch_at(step)
        parts = [of_run.batch_at(step, shard, 2) for shard in range(2)]
        for name in FIELDS:
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))


def test_a_batch_holds_the_rows_of_the_sources_that_it_names(three):
    of_run, tokenizer = batches(three), three.tokenizer
    for step in (0, 21):
        batch, names = of_run.batch_at(step), of_run.sources_at(step)
        assert len(names) == BATCH_SIZE and {*names} <= {*SIZES}
        for name, tokens, ids in zip(names, batch.tokens_BL, batch.segment_ids_BL, strict=True):
            text = tokenizer.decode(tokens[ids > 0].tolist())
            # A row may begin inside of a document, whose name stands at its start.
            assert any(0x4E00 <= ord(c) < 0x4E20 for c in text) == (name == "zh") or len(text) < 8


def test_evaluation_reads_the_rows_of_all_sources(three):
    num_rows = three.splits["validation"].num_rows
    assert num_rows == sum(p.splits["validation"].num_rows for p in three.corpora.values())
    rows = list(evaluation_batches(three, "validation", batch_size=4))
    assert sum(int((batch.segment_ids_BL > 0).any(axis=1).sum()) for batch in rows) == num_rows


def test_what_was_seen_is_counted(three):
    of_run = batches(three)
    seen, num_rows = of_run.drawn(NUM_STEPS), three.corpora["zh"].splits["train"].num_rows
    assert seen["share/zh"] == 0.5 and seen["epochs/zh"] == 160 / num_rows
    late = of_run.drawn(NUM_STEPS, since=NUM_STEPS - 1)
    names = of_run.sources_at(NUM_STEPS - 1)
    assert late["share/en"] == names.count("en") / BATCH_SIZE
    assert late["epochs/en"] == seen["epochs/en"]


def test_another_seed_changes_rows_and_no_sources(three):
    one, other = batches(three, seed=1), batches(three, seed=2)
    assert one.sources_at(5) == other.sources_at(5)
    assert not np.array_equal(one.rows_at(5), other.rows_at(5))


LEARNT = dict(
    kind="sentencepiece",
    algorithm="bpe",
    vocab_size=320,
    user_symbols=(),
    character_coverage=0.9995,
    mask=False,
    num_sentinels=0,
)


def folders(folder):
    return {path.name for path in (folder / "cache").iterdir() if path.is_dir()}


def test_other_weights_tokenize_nothing_anew(folder):
    one = prepare(folder, tokenizer=LEARNT, en=3.0, zh=1.0)
    before = folders(folder)
    stages = ((0.0, {"en": 0, "zh": 1}), (0.5, {"en": 1, "zh": 1}))
    others = [
        prepare(folder, tokenizer=LEARNT, en=1.0, zh=0.0),
        prepare(folder, tokenizer=LEARNT, en=1.0, zh=1.0, stages=stages),
        prepare(folder, tokenizer=LEARNT, en=1.0, zh=1.0, temperature=3.0),
    ]
    assert folders(folder) == before
    assert {other.hash for other in others} == {one.hash}
    assert others[0].mixture(10, 8).counts(80).tolist() == [80, 0]


def test_one_tokenizer_learns_of_all_sources(folder):
    mixed = prepare(folder, tokenizer=LEARNT, en=1.0, zh=1.0)
    prints = {p.tokenizer.fingerprint for p in mixed.corpora.values()}
    assert prints == {mixed.tokenizer.fingerprint}
    for text in ("en ", "\u4e05"):  # Neither is spelt in bytes.
        assert len(mixed.tokenizer.encode_batch([text])[0]) < len(text.encode())


def test_a_large_source_leaves_pieces_for_a_small_one(folder, monkeypatch):
    monkeypatch.setattr("lm.corpus.tokenizer_kinds.SAMPLE_CHARS", 1000)
    taken = {}
    keep = mixed_corpus.tokenizer_kinds.keep_tokenizer

    def kept(block, documents, fingerprint, cache_dir):
        for document in documents():
            name = document.name.partition(" ")[0]
            taken[name] = taken.get(name, 0) + len(document.text)
        return keep(block, documents, fingerprint, cache_dir)

    monkeypatch.setattr(mixed_corpus.tokenizer_kinds, "keep_tokenizer", kept)
    prepare(folder, tokenizer=LEARNT, en=1.0, zh=1.0)
    chars = sum(len(path.read_text()) for path in (folder / "zh/train").iterdir())
    # Which documents of the large one are taken depends on their names, and so on the folder.
    assert taken["zh"] == chars < 500 and 50 < taken["en"] <= 500


def test_the_hash_covers_every_source(folder):
    hashes = {
        prepare(folder, en=1.0).hash,
        prepare(folder, en=1.0, zh=1.0).hash,
        prepare(folder, en=1.0, zh=1.0, de=1.0).hash,
    }
    assert len(hashes) == 3


def test_a_source_of_less_than_a_batch_is_repeated(folder):
    mixed = prepare(folder, en=1.0, de=1.0)
    assert mixed.corpora["de"].splits["train"].num_rows < BATCH_SIZE / 2
    assert batches(mixed).drawn(NUM_STEPS)["epochs/de"] > 10


def test_sources_of_the_same_text_are_refused(folder):
    shutil.copytree(folder / "zh", folder / "zh2", dirs_exist_ok=True)
    for name, place in (("twin", folder / "zh2"), ("again", folder / "zh")):
        more = {name: block(place.parent, place.name)}
        with pytest.raises(UserError) as error:
            prepare(folder, en=1.0, zh=1.0, more=more)
        assert f"data.sources.{min(name, 'zh')} and data.sources." in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (dict(sources={}), "data.sources names no source"),
        (dict(source="python_stdlib"), "data.source='python_stdlib' means nothing beside"),
        (dict(train="x/*"), "data.train='x/*' means nothing beside data.sources, which are en"),
        (dict(mixture=dict(stages=())), "data.mixture.temperature is missing"),
        (dict(mixture=dict(stages=(), temperature=0.0, alpha=1)), "data.mixture.alpha is no"),
        (dict(sources={"a/b": {}}), "data.sources: 'a/b' must be of letters"),
        (dict(sources={"en": dict(weight=1.0)}), "data.sources.en.source is missing"),
        (dict(sources={"en": dict(kind=1)}), "data.sources.en.kind is no setting"),
    ],
)
def test_a_mistake_in_a_block_is_one_line(folder, more, words):
    given = dict(
        sources={"en": block(folder, "en")},
        mixture=dict(temperature=0.0, stages=()),
        tokenizer=BYTES,
        cache_dir=folder / "none",
    )
    with pytest.raises(UserError) as error:
        mixed_corpus.prepare(**SHARED, **given | more)
    assert words in str(error.value)
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(source="txt"), "data.sources.zh.source='txt' is unknown"),
        (dict(train="nowhere/*"), "data.sources.zh.train"),
        (dict(field="text"), "data.sources.zh.field"),
    ],
)
def test_an_error_names_its_source_before_anything_is_prepared(folder, changes, words):
    with pytest.raises(UserError) as error:
        prepare(folder / "en" / "..", more={"zh": block(folder, "zh") | changes}, en=1.0)
    assert words in str(error.value)
