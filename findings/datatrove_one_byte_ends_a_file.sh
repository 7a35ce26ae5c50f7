#!/bin/bash
# One byte that is no UTF-8 ends the reading of a file; the task is complete, and no statistic says so.
#
# Guess: datatrove's JsonlReader skips a line that it cannot decode, or fails, or counts what it lost.
# Instead: what stands behind it, and what was read into one buffer with it, is left out with a line of
#   the log. The task is marked as complete, so that running it again does nothing.
# Versions: datatrove 0.10.1. Seen in December 2026:
#   1,000 lines, of which line 501 has one byte of Latin-1 -> 436 documents; completions: ['00000'];
#   statistics of the reader: input_files, doc_len, documents
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q "datatrove[io]==0.10.1" orjson
cat > show.py <<'PY'
import json
import pathlib

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

lines = [b'{"text": "document %d", "id": "%d"}\n' % (i, i) for i in range(1000)]
lines[500] = '{"text": "café", "id": "500"}\n'.encode("latin-1")
pathlib.Path("in").mkdir()
pathlib.Path("in/a.jsonl").write_bytes(b"".join(lines))
steps = [JsonlReader("in", compression=None), JsonlWriter("out", compression=None)]
LocalPipelineExecutor(steps, tasks=1, logging_dir="log").run()
written = sum(len(path.read_text().splitlines()) for path in pathlib.Path("out").iterdir())
completions = [path.name for path in pathlib.Path("log/completions").iterdir()]
counted = list(json.loads(pathlib.Path("log/stats.json").read_text())[0]["stats"])
print(f"{len(lines)} lines -> {written} documents; completions: {completions}; counted: {counted}")
assert written < 999, "the others are read now"
assert completions == ["00000"], "the task is not complete now"
assert counted == ["input_files", "doc_len", "documents"], "losses are counted now"
print("still so")
PY
env/bin/python show.py 2> log.txt || { cat log.txt; exit 1; }
