#!/bin/bash
# Beam takes options from the command line of whatever program imports it, and drops those that it
# does not know.
#
# Guess: PipelineOptions() without an argument has Beam's defaults; a misspelt option is an error.
# Instead: without a list it parses sys.argv, so that another program's flags become options of the
# pipeline; with one, an option that no class knows is left out, without a word.
# Versions: apache-beam 2.77.0. Seen in December 2026:
#   workers of PipelineOptions(): 7
#   workers of PipelineOptions([]): 1
#   workers where the option is misspelt: 1, and nothing on stderr
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install -q apache-beam==2.77.0
cat > show.py <<'PY'
import contextlib
import io
import sys

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

sys.argv = ["another_program.py", "--direct_num_workers=7"]


def workers(*args):
    return PipelineOptions(*args).view_as(DirectOptions).direct_num_workers


print("workers of PipelineOptions():", workers())
print("workers of PipelineOptions([]):", workers([]))
said = io.StringIO()
with contextlib.redirect_stderr(said):
    misspelt = workers(["--direct_num_worker=2"])
print(f"workers where the option is misspelt: {misspelt}, and {said.getvalue() or 'nothing'} on stderr")
assert (workers(), workers([]), misspelt, said.getvalue()) == (7, 1, 1, "")
print("still so")
PY
env/bin/python show.py
