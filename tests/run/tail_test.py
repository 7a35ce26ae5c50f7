import json
import pathlib

from lm.run.status import Tail
from lm.system import atomic_files

ONE, TWO, THREE = ({"step": step} for step in (1, 2, 3))


def line(record):
    return json.dumps(record) + "\n"


def test_a_tail_reads_each_record_once_and_none_half(tmp_path):
    tail, path = Tail(tmp_path), tmp_path / "metrics.jsonl"
    assert tail.read() == []

    path.write_text(line(ONE) + line(TWO)[:5])
    assert (tail.read(), tail.read()) == ([ONE], [])
    with path.open("a") as file:
        file.write(line(TWO)[5:] + "broken\n" + line(THREE))
    assert (tail.read(), tail.read()) == ([TWO, THREE], [])


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    tail, path = Tail(tmp_path), pathlib.Path(tmp_path / "metrics.jsonl")
    path.write_text(line(ONE) + line(TWO))
    tail.read()

    atomic_files.write(path, line(ONE) + line(THREE))

    assert tail.read() == [ONE, THREE]
