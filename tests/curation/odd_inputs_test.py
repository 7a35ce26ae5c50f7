"""Of bad inputs and machines: each text has one fate, each fault one line, and a run goes on."""

import errno
import json
import os
import signal

import pytest
from backports import zstd

from lm.curation import inputs, stages
from lm.curation.engines import local
from lm.errors import UserError
from lm.system import faults
from tests.curation.pipeline_test import (
    BLOCKS,
    CHINESE,
    ENGLISH,
    corpus,
    curate,
    documents,
    make_input,
)


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "Permission denied; give")],
)
def test_a_disk_that_takes_nothing_is_one_line_and_the_same_command_goes_on(
    number, message, tmp_path, monkeypatch
):
    lines = [json.dumps({"text": ENGLISH.format(i) * 3}) for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, lines[0], "{"]))
    found = {"a": ("jsonl", f"{tmp_path}/a.jsonl")}
    curate(tmp_path / "whole", found)
    real = local.shards.write

    def write(path, lines):
        if path.parent.name.startswith("language"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, lines)

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(local.shards, "write", write)
        curate(tmp_path / "full", found)
    said = faults.one_line(caught.value)
    assert said.startswith(f"{tmp_path}/full/cache/language-") and message in said
    curate(tmp_path / "full", found)

    assert corpus(tmp_path / "full") == corpus(tmp_path / "whole")


def kill_itself(lines):
    """Ends as a process does that the kernel kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match="a process that curated was killed"),
        local.opened(num_workers=2, num_shards=2, sort_bytes=1000) as engine,
    ):
        engine.fold(kill_itself, [tmp_path])


ODD = {  # Texts, and where each ends by what is published for English and Chinese.
    "word " * 50_000: "",  # In no language that there are thresholds for.
    "...!!!???" * 50: "",
    "，。！" * 60: "",
    "1234567890 " * 50: "",
    "a": "",
    "河水": "",
    "\u200b": "",
    "\x00\x01": "empty",
    "\ufffe\uffff": "empty",
    " \u2028\n": "empty",
    "THE RIVER WAS CALM AND NOBODY ON THE FERRY SPOKE OF THE FLOOD THAT YEAR. "
    * 5: "stop_words_low",
    "O wild west wind\nthou breath\nof autumn's being\nthou from whose\n" * 2: "num_units_low",
    "我们用 Python 写 machine learning 的代码，然后 deploy 到 server 上。"
    * 5: "mean_unit_length_high",
    "這是一個關於編碼的故事。" * 8: "top_3_grams_high",
    "def read(path):\n    with open(path) as file:\n        return [x + 1 for x in file]\n"
    * 9: "stop_words_low",
}


def test_of_ten_thousand_copies_one_is_kept_and_counts_all(tmp_path):
    line = json.dumps({"text": CHINESE.format("三")}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * 10_000)
    tasks = inputs.tasks_of(make_input("a", "jsonl", str(tmp_path / "a.jsonl")))
    with local.opened(num_workers=1, num_shards=2, sort_bytes=10**6) as engine:
        engine.sort(inputs.read, tasks, tmp_path / "read")
        shards_of = lambda name: sorted((tmp_path / name).glob("*.zst"))
        engine.sort(stages.by_text, [(path,) for path in shards_of("read")], tmp_path / "texts")
        found = [line for path in shards_of("texts") for line in stages.equal_texts((path,))]

    decisions = [json.loads(line) for line in found]
    assert sum(one.get("reason") == "equal_text" for one in decisions) == 9999
    assert [one["copies"] for one in decisions if "copies" in one] == [10_000]


def test_odd_texts_end_in_one_place_each(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ODD))
    quality = BLOCKS["quality"] | {"thresholds": "published"}

    found = {"a": ("auto", str(tmp_path / "a.jsonl"))}
    curate(tmp_path / "out", found, blocks=BLOCKS | {"quality": quality})

    with zstd.open(tmp_path / "out/provenance.jsonl.zst") as file:
        told = [json.loads(line) for line in file]
    places = [f"{tmp_path}/a.jsonl:{i + 1}" for i in range(len(ODD))]
    fates = dict(zip(places, ODD.values(), strict=True))
    assert {one["place"]: one.get("reason", "") for one in told} == fates
    kept = [text for text, reason in ODD.items() if not reason]
    assert sorted(one["text"] for one in documents(tmp_path / "out")) == sorted(kept)


def test_an_evaluation_that_is_an_input_is_dropped_whole(tmp_path):
    lines = [json.dumps({"text": ENGLISH.format(i) + CHINESE.format(i)}) for i in range(9)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    blocks = BLOCKS | {
        "decontaminate": BLOCKS["decontaminate"] | {"files": str(path)},
        "duplicates": BLOCKS["duplicates"] | {"near": False},
    }

    report = curate(tmp_path / "out", {"a": ("auto", str(path))}, blocks=blocks)

    (row,) = report["ledger"]
    assert (row["reason"], row["documents"]) == ("holds_item", 9)
    assert documents(tmp_path / "out") == []
