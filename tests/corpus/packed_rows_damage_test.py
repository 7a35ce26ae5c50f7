"""Prepared data that changed on its disk: one line that says which folder to delete."""

import errno
import itertools
import shutil

import numpy as np
import pytest

from lm.corpus import packed_rows, preparation
from lm.corpus.batches import Batches
from lm.errors import UserError
from lm.formats import files


@pytest.fixture(scope="module")
def arguments(corpus, tmp_path_factory):
    return dict(
        source="text",
        train=corpus["train"],
        validation=corpus["validation"],
        field="",
        seq_len=64,
        add_bos=True,
        add_eos=True,
        on_error="raise",
        max_document_bytes=files.MAX_DOCUMENT_BYTES,
        tokenizer={"kind": "bytes"},
        cache_dir=tmp_path_factory.mktemp("cache"),
        num_processes=1,
    )


@pytest.fixture(scope="module")
def prepared(arguments):
    return preparation.prepare(**arguments)


@pytest.fixture
def copy(prepared, arguments, tmp_path):
    """The arguments that open a copy of the prepared data, and its folder."""
    shutil.copytree(prepared.folder, tmp_path / prepared.folder.name)
    return arguments | {"cache_dir": tmp_path}, tmp_path / prepared.folder.name


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def into_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "braces": lambda path: path.write_bytes(b"{}"),
    "removed": lambda path: path.unlink(),
    "made a folder": into_folder,
}
ROWS = "*/*/*train.array_record*"
SMALL = ["meta.json", "*/*/features.json", "*/*/dataset_info.json", "tokenizer/kind.txt"]


def read_all(arguments):
    prepared = preparation.prepare(**arguments)
    for split in preparation.SPLITS:
        reader = packed_rows.RowReader(prepared.folder, split, prepared.tokenizer.vocab_size)
        reader.read(range(len(reader)))


CASES = [
    *itertools.product([True, False], [*SMALL, ROWS], DAMAGE),
    *itertools.product([True], ["manifest.json"], ["flipped", "cut", "emptied", "braces"]),
]


@pytest.mark.parametrize(
    "has_manifest, file, damage",
    [case for case in CASES if case[0] or case[1] == ROWS or case[2] != "flipped"],
)
def test_damage_is_one_line_that_names_the_folder(copy, has_manifest, file, damage):
    arguments, folder = copy
    if not has_manifest:  # As an older version left it.
        (folder / "manifest.json").unlink()
    (path,) = folder.glob(file)
    DAMAGE[damage](path)

    with pytest.raises(UserError, match=f"prepared data in {folder} is damaged .*; delete that"):
        read_all(arguments)


TOKENIZER = {  # Contents by name, and what is said of them, without the remedy.
    "of no kind": ({"kind.txt": b"other\n"}, "says 'other', which is unknown"),
    "without text": ({"kind.txt": b"\xff"}, "is damaged (kind.txt is no text)"),
    "without a model": (
        {"kind.txt": b"sentencepiece\n", "sentencepiece.model": b""},
        "is damaged (sentencepiece.model is no SentencePiece model)",
    ),
    "of no JSON": ({"kind.txt": b"transformers\n", "tokenizer.json": b"{"}, "is no tokenizer.json"),
    "that is missing": ({"kind.txt": b"transformers\n"}, "tokenizer.json is missing"),
}


@pytest.mark.parametrize("kind", TOKENIZER)
def test_of_a_damaged_tokenizer_the_only_remedy_is_that_of_its_folder(copy, kind):
    """Where no manifest says first that the file has changed."""
    arguments, folder = copy
    contents, reason = TOKENIZER[kind]
    (folder / "manifest.json").unlink()
    for name, data in contents.items():
        (folder / "tokenizer" / name).write_bytes(data)

    with pytest.raises(UserError) as caught:
        read_all(arguments)

    line = str(caught.value)
    assert line.startswith(f"the prepared data in {folder} is damaged (") and reason in line
    assert line.count("; ") == 1 and "restore" not in line and "remove" not in line


def test_an_empty_folder_of_that_name_is_damaged(copy):
    arguments, folder = copy
    shutil.rmtree(folder)
    folder.mkdir()

    with pytest.raises(UserError, match=f"prepared data in {folder} is damaged"):
        read_all(arguments)


def test_no_flipped_byte_of_the_rows_gives_another_row(copy, prepared):
    _, folder = copy
    (path,) = folder.glob(ROWS)
    whole, noticed = path.read_bytes(), 0
    reader = packed_rows.RowReader(prepared.folder, "train", prepared.tokenizer.vocab_size)
    rows = reader.records(range(len(reader)))
    for at in np.random.default_rng(0).random(30):
        path.write_bytes(whole)
        flip(path, at)
        try:
            damaged = packed_rows.RowReader(folder, "train", prepared.tokenizer.vocab_size)
            assert damaged.records(range(len(reader))) == rows
        except UserError:
            noticed += 1
    assert noticed >= 10


def test_rows_that_are_damaged_while_they_are_read_in_threads_are_named(copy):
    arguments, folder = copy
    batches = Batches(preparation.prepare(**arguments), "train", batch_size=8, seed=0)
    (path,) = folder.glob(ROWS)
    path.write_bytes(b"\1" * path.stat().st_size)

    with pytest.raises(UserError, match=f"prepared data in {folder} is damaged"):
        list(batches.iterate(0, 50))


def test_what_the_machine_refuses_is_no_damage(tmp_path):
    for error in (PermissionError(errno.EACCES, "Permission denied", "x"), MemoryError()):
        with pytest.raises(type(error)), packed_rows.naming_damage(tmp_path):
            raise error
    with pytest.raises(OSError, match="Too many"), packed_rows.naming_damage(tmp_path):
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_full_disk_in_preparation_names_its_folder_and_leaves_nothing(
    arguments, tmp_path, monkeypatch
):
    def full(self):
        raise RuntimeError("Failed to finalize writing: No space left on device")

    monkeypatch.setattr(packed_rows.PackedRows, "write", full)

    with pytest.raises(OSError, match="No space left") as caught:
        preparation.prepare(**arguments | {"cache_dir": tmp_path})

    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith(".unfinished")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
