import dataclasses
import json
import multiprocessing
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lm.corpus import preparation, tokenization
from lm.corpus.batches import evaluation_batches
from lm.corpus.preparation import prepare
from lm.corpus.sources import Document
from lm.corpus.tokenizer_kinds import sample
from lm.errors import UserError
from lm.system import faults
from lm.tokenizers import tokenizers
from tests.file_limits import file_limit

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


def corpus(
    folder, train=("def f(x):\n    return x\n" * 9, "", "日本 ", "z" * 70), validation=("abc",)
):
    for split, texts in {"train": train, "validation": validation}.items():
        (folder / split).mkdir(parents=True)
        for i, text in enumerate(texts):
            (folder / split / f"{i}.txt").write_bytes(
                text if isinstance(text, bytes) else text.encode()
            )
    return dict(
        source="text",
        train=f"{folder}/train/*",
        validation=f"{folder}/validation/*",
        field="",
        seq_len=16,
        add_bos=True,
        add_eos=True,
        on_error="raise",
        tokenizer=BYTES,
        cache_dir=folder / "cache",
        num_processes=1,
    )


def documents_in(prepared, split):
    """The documents of a split, put together from its rows by what follows what."""
    runs = {}  # From the first token of a piece and where it stands to its text.
    for rows in evaluation_batches(prepared, split, batch_size=3):
        for tokens, after, segments in zip(
            rows.tokens_BL, rows.next_BL, rows.segment_ids_BL, strict=True
        ):
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                runs.setdefault((tokens[here][0], len(runs)), (tokens[here], after[here][-1]))
    return list(runs.values())


def files_in(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("specials", [(False, False), (True, False), (True, True)])
def test_the_cache_holds_as_many_tokens_as_the_tokenizer_made(tmp_path, tokenizer, specials):
    settings = corpus(tmp_path) | dict(tokenizer=tokenizer)
    prepared = prepare(**settings | dict(add_bos=specials[0], add_eos=specials[1]))

    for split in ("train", "validation"):
        texts = [path.read_text() for path in sorted((tmp_path / split).iterdir())]
        encoded = prepared.tokenizer.encode_batch(texts)
        batches = list(evaluation_batches(prepared, split, batch_size=3))
        in_rows = sum(np.sum(rows.segment_ids_BL > 0) for rows in batches)
        predicted = sum(np.sum(rows.next_BL >= 0) for rows in batches)
        info = prepared.splits[split]

        assert in_rows == info.num_tokens == sum(map(len, encoded)) + len(texts) * sum(specials)
        assert info.num_documents == len(texts)
        assert info.num_bytes == sum(len(text.encode()) for text in texts)
        nonempty = sum(len(ids) + sum(specials) > 0 for ids in encoded)
        assert predicted == in_rows - nonempty
        firsts = [prepared.tokenizer.num_bytes(ids[0]) for ids in encoded if len(ids)]
        assert info.num_predicted_bytes == info.num_bytes - (0 if specials[0] else sum(firsts))


def test_the_rows_spell_the_documents(tmp_path):
    settings = corpus(tmp_path, train=["a short one", "a much longer one, of many rows" * 3, "ñ"])
    prepared = prepare(**settings)

    text = "".join(
        prepared.tokenizer.decode(tokens) for tokens, _ in documents_in(prepared, "train")
    )
    # Best fit moves the last piece of the long one behind a short one; no byte is lost.
    assert sorted(text) == sorted("a short one" + "a much longer one, of many rows" * 3 + "ñ")
    whole = [
        prepared.tokenizer.decode(t) for t, after in documents_in(prepared, "train") if after < 0
    ]
    assert "a short one" in whole and "ñ" in whole


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "sentencepiece"])
def test_two_preparations_are_the_same_bytes_from_any_number_of_processes(
    tmp_path, monkeypatch, tokenizer
):
    monkeypatch.setattr(tokenization, "_CHUNK_CHARS", 100)  # Many chunks, more than may wait.
    texts = [f"{i} of many short documents, " * (i % 7) for i in range(60)]
    settings = corpus(tmp_path, train=texts) | dict(tokenizer=tokenizer)

    one = prepare(**settings)
    two = prepare(**settings | dict(cache_dir=tmp_path / "second", num_processes=2))

    assert one.hash == two.hash and one.splits == two.splits
    assert files_in(one.folder) == files_in(two.folder)
    assert any(path.name.startswith("packed_rows-train") for path in files_in(one.folder))


def test_what_is_in_the_cache_is_not_prepared_again(tmp_path, monkeypatch):
    settings = corpus(tmp_path)
    first = prepare(**settings)
    monkeypatch.setattr(preparation, "_prepare", None)
    second = prepare(**settings | dict(num_processes=2))
    assert (first.folder, first.splits) == (second.folder, second.splits)
    assert second.tokenizer.decode(second.tokenizer.encode_batch(["same"])[0]) == "same"


CHANGES = {
    "seq_len": dict(seq_len=8),
    "add_bos": dict(add_bos=False),
    "add_eos": dict(add_eos=False),
    "on_error": dict(on_error="skip"),
    "tokenizer": dict(tokenizer=PIECES),
    "vocabulary": dict(tokenizer=PIECES | dict(vocab_size=305)),
    "symbols": dict(tokenizer=PIECES | dict(user_symbols=("<mask>",))),
}


def test_all_that_shapes_the_cache_names_it(tmp_path):
    settings = corpus(tmp_path)
    hashes = [prepare(**settings | change).hash for change in [{}, *CHANGES.values()]]
    for split in ("train", "validation"):
        path = tmp_path / split / "0.txt"
        path.write_text(path.read_text() + "!")
        hashes.append(prepare(**settings).hash)
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("moment", ["training", "writing", "renaming"])
def test_an_interrupted_preparation_is_not_taken_for_complete(tmp_path, monkeypatch, moment):
    settings = corpus(tmp_path)

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        match moment:
            case "training":
                patch.setattr(preparation, "_special_tokens", kill)
            case "writing":
                patch.setattr(preparation.packing, "split", kill)
            case "renaming":
                patch.setattr(pathlib.Path, "rename", kill)
        with pytest.raises(Killed):
            prepare(**settings)
    left = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert left == []

    interrupted = prepare(**settings)
    clean = prepare(**settings | dict(cache_dir=tmp_path / "clean"))
    assert files_in(interrupted.folder) == files_in(clean.folder)


def test_what_a_killed_process_left_behind_is_cleared_away(tmp_path):
    settings = corpus(tmp_path)
    done = prepare(**settings)
    # As SIGKILL leaves it: everything but the last rename, and one record file cut short.
    unfinished = done.folder.rename(done.folder.with_suffix(".unfinished"))
    (records,) = unfinished.rglob("*train*")
    records.write_bytes(records.read_bytes()[:100])

    again = prepare(**settings)

    clean = prepare(**settings | dict(cache_dir=tmp_path / "clean"))
    assert files_in(again.folder) == files_in(clean.folder)
    assert not unfinished.exists()


def _prepare_and_send(connection, barrier, settings):
    barrier.wait()  # Imports take longer than the preparation.
    connection.send(dataclasses.asdict(prepare(**settings).splits["train"]))


def test_two_processes_that_prepare_the_same_at_once_agree(tmp_path):
    settings = corpus(tmp_path, train=["some text " * 1000] * 5)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    receivers, processes = [], []
    for _ in range(2):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, barrier, settings)
        processes.append(context.Process(target=_prepare_and_send, args=arguments))
        processes[-1].start()
        sender.close()  # So that the death of a process ends the wait for it.
        receivers.append(receiver)
    infos = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert infos[0] == infos[1]
    clean = prepare(**settings | dict(cache_dir=tmp_path / "clean"))
    assert files_in(clean.folder) == files_in(tmp_path / "cache" / clean.hash)


def test_a_script_without_a_main_guard_can_prepare(tmp_path):
    settings = corpus(tmp_path) | dict(num_processes=2, cache_dir=str(tmp_path / "cache"))
    script = tmp_path / "script.py"
    script.write_text(
        "print('started')\n"
        "from lm.corpus.preparation import prepare\n"
        f"print(prepare(**{settings!r}).splits['train'].num_documents)\n"
    )
    root = pathlib.Path(preparation.__file__).parents[2]
    out = subprocess.run(
        [sys.executable, script],
        cwd=root,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,  # Processes that start processes would wait for each other's locks.
    )
    assert out.stdout.split() == ["started", "4"], out.stderr


def test_a_tokenizing_process_that_is_killed_is_said_in_one_line(tmp_path):
    tokenizers.ByteTokenizer().save(tmp_path)

    def documents():
        yield Document("a" * 2**18, "a")
        for process in multiprocessing.active_children():
            process.kill()
        yield Document("b" * 2**18, "b")

    with (
        pytest.raises(UserError, match="was killed"),
        tokenization.tokenizing(tmp_path, 2) as tokenize,
    ):
        list(tokenize(documents()))


def test_skipped_documents_are_counted_and_reported(tmp_path, capsys):
    settings = corpus(tmp_path, train=["good", b"bad \xff", "good again"])
    with pytest.raises(UserError, match=r"1\.txt: byte 0xff at offset 4"):
        prepare(**settings)
    prepared = prepare(**settings | dict(on_error="skip"))
    info = prepared.splits["train"]
    assert (info.num_documents, info.num_skipped) == (2, 1)
    assert "left out 1 documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(on_error="ignore"), "data.on_error='ignore' is unknown"),
        (dict(seq_len=0), "data.seq_len=0 must be"),
        (dict(tokenizer=dict(kind="words")), "tokenizer.kind='words' is unknown; choose bytes"),
        (dict(tokenizer=dict(kind="bytes", path="x")), "takes no other key, but has path"),
        (dict(tokenizer=dict(kind="file")), "kind='file' takes path, but has no other key"),
        (dict(tokenizer=dict(kind="file", path="absent.json")), "tokenizer.path='absent.json'"),
        (dict(tokenizer=PIECES | dict(vocab_size=9000)), "tokenizer.vocab_size=9000"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path, change, says):
    settings = corpus(tmp_path)
    with pytest.raises(UserError) as error:
        prepare(**settings | change)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    cache = tmp_path / "cache"
    assert not cache.exists() or all(path.suffix == ".lock" for path in cache.iterdir())


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused(tmp_path, split, tokenizer):
    settings = corpus(tmp_path, **{split: ["", ""]}) | dict(tokenizer=tokenizer)
    with pytest.raises(UserError, match=f"the {split} split of data.source holds no text"):
        prepare(**settings | dict(add_bos=False, add_eos=False))


@pytest.mark.parametrize("key", ["add_bos", "add_eos"])
def test_a_tokenizer_that_lost_its_special_tokens_is_refused(tmp_path, key):
    import tokenizers as hf

    path = tmp_path / "tokenizer.json"
    hf.Tokenizer(hf.models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(path))
    settings = corpus(tmp_path) | dict(
        add_bos=False, add_eos=False, tokenizer=dict(kind="file", path=str(path))
    )
    prepare(**settings)
    with pytest.raises(UserError, match=f"data.{key}=True, but the tokenizer has no such token"):
        prepare(**settings | {key: True})


def test_a_sample_is_bounded_spread_out_and_the_same_every_time():
    def documents():
        return (Document(f"{i:05d}" * 20, f"name {i}") for i in range(10_000))

    texts = list(sample(documents(), max_chars=100_000))

    assert texts == list(sample(documents(), max_chars=100_000))
    assert 40_000 < sum(map(len, texts)) <= 100_000
    numbers = np.array([int(text[:5]) for text in texts])
    assert (np.histogram(numbers, bins=5, range=(0, 10_000))[0] > len(texts) / 10).all()
    everything = list(sample(documents(), max_chars=10**9))
    assert everything == [document.text for document in documents()]


def test_the_metadata_is_plain_json(tmp_path):
    prepared = prepare(**corpus(tmp_path))
    meta = json.loads((prepared.folder / "meta.json").read_text())
    assert meta["splits"]["train"] == dataclasses.asdict(prepared.splits["train"])
    info = prepared.splits["train"]
    assert 0 <= 1 - info.num_tokens / (info.num_rows * 16) < 0.5


@pytest.mark.parametrize("num_bytes", [5, 100, 20_000])
def test_a_file_that_may_not_grow_is_a_line_with_the_remedy_and_leaves_nothing(tmp_path, num_bytes):
    """At the tokenizer, at what names it, and at the rows."""
    settings = corpus(tmp_path, train=["".join(map(chr, range(33, 2000))) * 30])

    with pytest.raises(Exception, match="File too large") as caught, file_limit(num_bytes):
        prepare(**settings)

    line = faults.one_line(caught.value)
    assert line.startswith(f"{tmp_path}/cache/") and "ulimit -f" in line
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert prepare(**settings).splits["train"].num_documents == 1
