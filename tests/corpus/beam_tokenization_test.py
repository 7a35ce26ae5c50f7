"""Preparation on Apache Beam gives the files that one machine gives."""

import pathlib
import sys

import pytest

from lm.corpus import beam_tokenization, documents
from lm.corpus.preparation import prepare
from lm.errors import UserError
from tests.corpus.preparation_test import BYTES, PIECES, corpus, files_in

try:
    import apache_beam  # noqa: F401 - only whether it is there.

    is_installed = True
except ImportError:
    is_installed = False
needs_beam = pytest.mark.skipif(
    not is_installed, reason="Apache Beam is not installed (pip install apache-beam)"
)
ENGINE = dict(runner="FnApiRunner", options=("--direct_running_mode=in_memory",))
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@needs_beam
@pytest.mark.parametrize(
    ("tokenizer", "engine"),
    [(BYTES, ENGINE), (PIECES, ENGINE), (PIECES, ENGINE | dict(options=TWO_PROCESSES))],
    ids=["bytes", "sentencepiece", "two processes"],
)
def test_the_files_do_not_tell_of_the_engine(tokenizer, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # From which no process finds this project by itself.
    monkeypatch.setattr(beam_tokenization, "_TASK_CHARS", 200)  # Many tasks.
    monkeypatch.setattr(documents, "LONG_CHARS", 1000)  # Of which some begin inside of a text.
    monkeypatch.setattr(documents, "_NEAR", 100)
    texts = ["", *(f"{i} of many short documents, " * (i % 7) for i in range(60))]
    texts += ["One that is long, \U0001f30d 和中文。\n" * 90, b"\xff is no text"]
    settings = corpus(tmp_path, train=texts) | dict(tokenizer=tokenizer, on_error="skip")

    here = prepare(**settings)
    there = prepare(**settings | dict(cache_dir=tmp_path / "other", engine=engine))

    assert here.hash == there.hash
    assert here.splits == there.splits
    assert here.splits["train"].num_skipped == 1
    assert files_in(here.folder) == files_in(there.folder)


@needs_beam
def test_a_fault_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("the disk of a worker is full")

    monkeypatch.setattr(beam_tokenization, "_write_ids", fail)
    with pytest.raises(UserError, match=r"^the disk of a worker is full$"):
        prepare(**corpus(tmp_path) | dict(engine=ENGINE))

    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_settings_that_mean_nothing_are_one_line_before_anything_is_written(tmp_path, monkeypatch):
    settings = corpus(tmp_path)
    with pytest.raises(UserError, match=r"^data\.engine\.runner is empty, and .* are for one$"):
        prepare(**settings | dict(engine=ENGINE | dict(runner="")))
    for name in [name for name in sys.modules if name.partition(".")[0] == "apache_beam"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"^data\.engine needs Apache Beam; run: pip install"):
        prepare(**settings | dict(engine=ENGINE))

    assert not pathlib.Path(settings["cache_dir"]).exists()
