"""The engine on Apache Beam writes what that of this machine writes, and fails in a line."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import datasets
import pyarrow.parquet
import pytest

from lm.curation import inputs, shards, stages
from lm.curation.engines import choice
from lm.errors import UserError
from lm.system import apache_beam as apache_beam_lib
from tests import tfds_texts
from tests.curation import pipeline_test

try:
    import apache_beam  # noqa: F401 - only whether it is there.

    is_installed = True
except ImportError:
    is_installed = False
needs_beam = pytest.mark.skipif(
    not is_installed, reason="Apache Beam is not installed (pip install apache-beam)"
)
SHAPE = dict(num_shards=3, sort_bytes=3000)
HERE = dict(kind="local", num_workers=1)
LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch.py"
IN_MEMORY = ("--direct_running_mode=in_memory",)
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
THREADS = ("--direct_running_mode=multi_threading", "--direct_num_workers=4")


def beam(*options):
    return SHAPE | dict(kind="beam", runner="FnApiRunner", options=options)


texts = pipeline_test.texts


@pytest.fixture
def found(texts, tmp_path):
    """Inputs by name: lines in three files, of which one has none that is kept; and a page."""
    (tmp_path / "in").mkdir()
    for i in range(2):
        (tmp_path / f"in/{i}.jsonl").write_text("\n".join(texts[0][i::2]))
    (tmp_path / "in/2.jsonl").write_text("\n".join(["{"] * 3))
    page = f"<html><body><p>{pipeline_test.ENGLISH.format(1) * 9}</p></body></html>"
    (tmp_path / "in/page.html").write_text(page)
    return {"a": ("auto", f"{tmp_path}/in/*.jsonl"), "b": ("auto", f"{tmp_path}/in/*.html")}


def opened(found):
    return [pipeline_test.make_input(name, kind, path) for name, (kind, path) in found.items()]


def files(folder):
    """All that is in a folder but what a killed one would go on with, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def launched(folder, found, kind, **engine):
    """All that a run writes, and all stages in its cache, by name."""
    folder.mkdir()
    shape = {f"engine.{name}": value for name, value in (SHAPE | engine).items()}
    shape |= {f"inputs.{name}.path": path for name, (_, path) in found.items()}
    shape |= {"quality.thresholds": "none", "output.validation_share": 0.2}
    config = f"{LAUNCH.parent}/configs/curate.py:engine={kind},inputs={'+'.join(found)}"
    flags = [f"--config.{key}={value}" for key, value in shape.items()]
    subprocess.run(
        [sys.executable, LAUNCH, f"--config={config}", *flags, f"--workdir={folder}/out"],
        env=os.environ | {"LM_CACHE": str(folder / "cache")},
        cwd=folder,  # From which no process finds this project by itself.
        check=True,
    )
    return files(folder)


@needs_beam
@pytest.mark.parametrize("options", [IN_MEMORY, TWO_PROCESSES], ids=["in memory", "two processes"])
def test_a_run_on_beam_writes_the_bytes_of_this_machine(options, found, tmp_path):
    here = launched(tmp_path / "here", found, "local", num_workers=1)
    there = launched(tmp_path / "there", found, "beam", options=options)

    assert here.keys() == there.keys()
    # Those that say how it was made.
    told = {"out/config.json", "out/card.md", "out/provenance.json"}
    assert {name for name in here if here[name] != there[name]} == told
    assert {"out/report.json", "out/provenance.jsonl.zst", "out/corpus/corpus.json"} <= here.keys()
    assert len([name for name in here if name.startswith("cache/")]) > 17 * SHAPE["num_shards"]


@needs_beam
@pytest.mark.parametrize(
    ("options", "name"), [(IN_MEMORY, "one_process"), (TWO_PROCESSES, "two_processes")]
)
def test_inputs_that_are_no_plain_files_are_read_as_on_this_machine(
    options, name, texts, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # Where other processes find it by name.
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    read = [json.loads(line).get("text") for line in texts[0] if line.startswith('{"text": "')]
    read = [text for text in read if text.isprintable()]
    tfds_texts.register(monkeypatch, name.title().replace("_", ""), tmp_path, read)
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in [*read, None]]))
    (tmp_path / "set").mkdir()
    table = pyarrow.table({"text": [*read, None]})
    pyarrow.parquet.write_table(table, tmp_path / "set/train.parquet")
    datasets.load_dataset(f"{tmp_path}/set", split="train").save_to_disk(tmp_path / "saved")
    pipeline_test.curate(tmp_path / "out", {"a": ("auto", f"{tmp_path}/a.json")})
    made = [
        pipeline_test.make_input(f"input{i}", kind, path)
        for i, (kind, path) in enumerate(
            [
                ("tfds", f"{name}@train"),
                ("hf", f"{tmp_path}/set@train"),
                ("hf", f"{tmp_path}/saved@train[:90%]"),
                ("json", f"{tmp_path}/a.json"),
                ("curated", f"{tmp_path}/out"),
            ]
        )
    ]
    tasks = [task for one in made for task in inputs.tasks_of(one)]
    for folder, block in (("here", SHAPE | HERE), ("there", beam(*options))):
        with choice.opened(**block) as engine:
            engine.sort(inputs.read, tasks, tmp_path / folder)

    found = files(tmp_path / "there")
    assert found == {path: of for path, of in files(tmp_path / "here").items() if "/" not in path}
    lines = [line for shard in found for line in shards.read(tmp_path / "there" / shard)]
    sources = collections.Counter(json.loads(line)["source"] for line in lines)
    assert len(sources) == len(made) and min(sources.values()) > 50


_busy = threading.Lock()


def slow(task):
    """Takes a while, and says whether another call was under way."""
    is_alone = _busy.acquire(blocking=False)
    time.sleep(0.005)
    if is_alone:
        _busy.release()
    name = "main" if threading.current_thread() is threading.main_thread() else "one"
    thread = f"{name} {threading.get_ident()}"
    line = {"id": f"{task:08x}", "is_alone": is_alone, "thread": thread}
    yield json.dumps(line, separators=(",", ":")).encode() + b"\n"


@needs_beam
def test_what_is_applied_need_not_be_safe_under_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch.py", "--direct_num_workers=none"])  # Not for Beam.
    with choice.opened(**beam(*THREADS)) as engine:
        engine.sort(slow, range(40), tmp_path)

    lines = [json.loads(line) for path in sorted(tmp_path.iterdir()) for line in shards.read(path)]
    assert len(lines) == 40
    assert all(line["is_alone"] for line in lines)
    assert len({line["thread"] for line in lines}) == 1


@needs_beam
@pytest.mark.parametrize("options", [IN_MEMORY, TWO_PROCESSES], ids=["in memory", "two processes"])
def test_what_users_can_mend_is_one_line_from_wherever_it_comes(options, found, tmp_path):
    with choice.opened(**beam(*options)) as engine:
        tasks = [task for one in opened(found) for task in inputs.tasks_of(one)]
        engine.sort(inputs.read, tasks, tmp_path / "read")
        path = tmp_path / "read" / shards.name(1, SHAPE["num_shards"])
        path.write_bytes(path.read_bytes()[:-5])

        with pytest.raises(UserError) as error:
            engine.map(stages.without_text, [tmp_path / "read"], tmp_path / "told")
        (tmp_path / "a_file").write_text("")
        with pytest.raises(NotADirectoryError) as of_machine:
            engine.sort(pathlib.Path.read_bytes, [tmp_path / "a_file/b"], tmp_path / "other")

    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path} is damaged")
    assert str(error.value).endswith("run the same command again")
    assert of_machine.value.filename == str(tmp_path / "a_file/b")
    names = {p.name for p in (tmp_path / "told").iterdir()} if (tmp_path / "told").exists() else {}
    assert path.name not in names


@needs_beam
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's own.
def test_what_became_of_another_process_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def emit(task): yield b''")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with choice.opened(**beam(*TWO_PROCESSES)) as engine:
        with pytest.raises(UserError, match=r"^a worker of FnApiRunner was killed, .* again$"):
            engine.sort(os._exit, [9], tmp_path / "killed")
        with pytest.raises(UserError, match=r"lack what is here: No module named 'only_here'; see"):
            engine.sort(only_here.emit, [0], tmp_path / "unknown")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(runner="NoRunner"), "engine.runner='NoRunner': Unexpected pipeline runner"),
        (dict(runner="no.such.Runner"), "engine.runner='no.such.Runner': No module named 'no'"),
        (dict(runner="DirectRunner"), "asks GitHub for a program first; name FnApiRunner"),
        (dict(options=("--direct_num_worker=2",)), "FnApiRunner knows no --direct_num_worker"),
        (dict(options=("--direct_num_workers=two",)), "invalid int value: 'two'"),
        (dict(options=("direct_num_workers=2",)), "must begin with --"),
        (dict(options=("--runner=FlinkRunner",)), "belongs into engine.runner"),
        (dict(num_shards=0), "engine.num_shards=0 must be at least 1"),
        (dict(kind="spark"), "engine.kind='spark' is unknown; choose local, beam"),
        (dict(num_workers=2), "engine.num_workers is no setting of the engine block"),
    ],
)
@needs_beam
def test_what_beam_does_not_know_is_one_line(change, said):
    with pytest.raises(UserError) as error, choice.opened(**beam() | change):
        raise AssertionError("it was opened")

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_without_beam_a_line_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "apache_beam"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)

    with pytest.raises(UserError) as error, choice.opened(**beam()):
        raise AssertionError("it was opened")

    assert str(error.value) == f"engine needs Apache Beam; run: {apache_beam_lib.INSTALL}"
