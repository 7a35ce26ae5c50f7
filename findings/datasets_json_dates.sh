#!/bin/bash
# Text that looks like dates is no text to `datasets`, from JSON.
#
# Guess: a JSON string is a string column, whatever it says.
# Instead: where every value of a column looks like a date, the column is a timestamp, and its
# values are datetime objects. One value that does not makes all of them strings again, so that
# the type of a column depends on rows that may stand elsewhere. CSV keeps such text as it is.
# Versions: datasets 5.2.0. Seen in November 2026:
#   ['2020-01-01', '2021-05-05'] -> [datetime.datetime(2020, 1, 1, 0, 0), datetime.datetime(2021, 5, 5, 0, 0)]
#   ['2020-01-01', 'no date'] -> ['2020-01-01', 'no date']
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q datasets==5.2.0
cat > show.py <<'PY'
import datetime
import json

import datasets

datasets.disable_progress_bars()


def read(values, name):
    with open(name, "w") as file:
        file.writelines(json.dumps({"text": value}) + "\n" for value in values)
    found = datasets.load_dataset("json", data_files=name, split="train", cache_dir="cache")["text"][:]
    print(values, "->", found)
    return found


dates = read(["2020-01-01", "2021-05-05"], "dates.jsonl")
mixed = read(["2020-01-01", "no date"], "mixed.jsonl")
assert all(isinstance(value, datetime.datetime) for value in dates), "dates are text now"
assert mixed == ["2020-01-01", "no date"]
print("still so")
PY
HF_HUB_OFFLINE=1 env/bin/python show.py
