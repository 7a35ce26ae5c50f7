import itertools

import numpy as np
import pytest

from lm.corpus.batches import Batches, evaluation_batches, permute
from lm.corpus.preparation import prepare
from lm.errors import UserError

FIELDS = ("tokens_BL", "next_BL", "segment_ids_BL", "positions_BL", "ids_B")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 7)):
        (folder / split).mkdir()
        for i in range(count):
            text = "".join(map(chr, rng.integers(97, 123, size=rng.integers(1, 60))))
            (folder / split / f"{i}.txt").write_text(text)
    return prepare(
        source="text",
        train=f"{folder}/train/*",
        validation=f"{folder}/validation/*",
        field="",
        seq_len=16,
        add_bos=True,
        add_eos=True,
        on_error="raise",
        tokenizer=dict(kind="bytes"),
        cache_dir=folder / "cache",
        num_processes=1,
    )


@pytest.fixture(scope="module")
def batches(prepared):
    return Batches(prepared, "train", batch_size=8, seed=1)


def assert_same(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


def join(parts):
    parts = list(parts)
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
@pytest.mark.parametrize("key", ["0 0", "0 1", "1 0"])
def test_a_permutation_takes_each_index_once(size, key):
    images = permute(np.arange(size), size, key)
    assert images.dtype == np.int64
    np.testing.assert_array_equal(np.sort(images), np.arange(size))


def test_permutations_look_random():
    size = 5000
    images = np.stack([permute(np.arange(size), size, f"{key}") for key in range(40)])
    moved = images / size  # Of 40 keys, where an index goes is uniform: mean 1/2, sd 0.046.
    assert abs(moved.mean(axis=0) - 0.5).max() < 0.046 * 5
    correlations = np.corrcoef(np.vstack([np.arange(size), images]))
    np.fill_diagonal(correlations, 0)
    assert abs(correlations).max() < 5 / np.sqrt(size)
    follows = np.mean(np.diff(images, axis=1) == 1)  # Neighbours part.
    assert follows < 5 / size


def test_a_permutation_never_changes_between_versions():
    # Golden: a run that is resumed by a later version must see the rows that it has not yet seen.
    assert permute(np.arange(10), 10, "0 0").tolist() == [4, 2, 0, 9, 7, 5, 8, 6, 3, 1]
    assert permute(np.array([123_456_789_012]), 10**12, "3 5").tolist() == [394_183_236_293]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_epoch_covers_every_row_exactly_once(prepared, batch_size):
    batches = Batches(prepared, "train", batch_size=batch_size, seed=0)
    num_rows = prepared.splits["train"].num_rows
    steps = -(-3 * num_rows // batch_size)
    seen = np.concatenate([batches.rows_at(step) for step in range(steps)])

    epochs = [seen[i * num_rows : (i + 1) * num_rows] for i in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_rows))
    for a, b in itertools.combinations(epochs, 2):
        assert not np.array_equal(a, b)


def test_a_batch_holds_the_rows_that_it_says(prepared, batches):
    everything = join(evaluation_batches(prepared, "train", batch_size=1))
    for step in (0, 5, 1000):
        batch = batches.batch_at(step)
        for name in FIELDS:
            expected = everything[name][batches.rows_at(step)]
            np.testing.assert_array_equal(getattr(batch, name), expected)
            assert getattr(batch, name).dtype == np.int32


def test_another_seed_is_another_order(prepared, batches):
    other = Batches(prepared, "train", batch_size=8, seed=2)
    assert not np.array_equal(other.rows_at(0), batches.rows_at(0))


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_shards_make_up_the_global_batch(batches, num_shards):
    for step in (0, 3, 6):  # The last spans two epochs.
        parts = [batches.batch_at(step, shard, num_shards) for shard in range(num_shards)]
        whole = batches.batch_at(step)
        for name, joined in join(parts).items():
            np.testing.assert_array_equal(joined, getattr(whole, name))


@pytest.mark.parametrize("rows_at_once", [1, 20, 128])
def test_prefetched_batches_are_the_same_from_any_step(batches, monkeypatch, rows_at_once):
    monkeypatch.setattr("lm.corpus.batches._ROWS_AT_ONCE", rows_at_once)
    direct = [batches.batch_at(step) for step in range(23)]
    for first in (0, 1, 10, 22):
        prefetched = list(batches.iterate(first, 23))
        assert len(prefetched) == 23 - first
        for a, b in zip(prefetched, direct[first:], strict=True):
            assert_same(a, b)
    assert list(batches.iterate(5, 5)) == []


def test_a_prefetched_shard_is_that_shard(batches):
    for step, rows in enumerate(batches.iterate(0, 5, shard=1, num_shards=2)):
        assert_same(rows, batches.batch_at(step, shard=1, num_shards=2))


def test_an_abandoned_iteration_can_begin_again(batches):
    first = next(batches.iterate(0, 10**9))
    assert_same(first, next(batches.iterate(0, 10**9)))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_evaluation_sees_every_row_once_in_order(prepared, batch_size):
    num_rows = prepared.splits["validation"].num_rows
    parts = list(evaluation_batches(prepared, "validation", batch_size=batch_size))
    assert all(part.tokens_BL.shape == (batch_size, 16) for part in parts)

    joined = join(parts)
    one_by_one = join(evaluation_batches(prepared, "validation", batch_size=1))
    for name in FIELDS:
        np.testing.assert_array_equal(joined[name][:num_rows], one_by_one[name])
    assert len(joined["tokens_BL"]) < num_rows + batch_size
    assert (joined["segment_ids_BL"][num_rows:] == 0).all()
    assert (joined["next_BL"][num_rows:] == -1).all()


def test_evaluation_shards_make_up_the_batch(prepared):
    shards = [
        evaluation_batches(prepared, "validation", batch_size=4, shard=s, num_shards=2)
        for s in range(2)
    ]
    whole = evaluation_batches(prepared, "validation", batch_size=4)
    for *parts, rows in zip(*shards, whole, strict=True):
        for name, joined in join(parts).items():
            np.testing.assert_array_equal(joined, getattr(rows, name))


def test_fewer_rows_than_a_batch_is_an_error(prepared):
    num_rows = prepared.splits["train"].num_rows
    Batches(prepared, "train", batch_size=num_rows, seed=0)
    with pytest.raises(UserError) as error:
        Batches(prepared, "train", batch_size=num_rows + 1, seed=0)
    assert f"holds {num_rows} rows of 16 tokens" in str(error.value)
    assert f"data.batch_size={num_rows + 1}" in str(error.value)
