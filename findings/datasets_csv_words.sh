#!/bin/bash
# Words such as None and null are no words to `datasets`, from CSV, and 001 is 1.
#
# Guess: a column that holds words is read as the words that stand there.
# Instead: null, None, NA, N/A and nan, quoted or not, are missing values (None), and a column of
# labels 001, 010 becomes numbers 1, 10; where one of them is missing, 1.0. A sentence of one such
# word disappears, and a class is renamed. JSON Lines keep all of them.
# Versions: datasets 5.2.0. Seen in November 2026:
#   text: ['yes', None, None, None, None, None]  label: [1, 2, 3, 10, 11, 12]
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q datasets==5.2.0
cat > show.py <<'PY'
import csv

import datasets

datasets.disable_progress_bars()
words = ["yes", "null", "None", "NA", "N/A", "nan"]
labels = ["001", "002", "003", "010", "011", "012"]
with open("a.csv", "w", newline="") as file:
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *zip(words, labels)])
found = datasets.load_dataset("csv", data_files="a.csv", split="train", cache_dir="cache")
print("text:", found["text"][:], " label:", found["label"][:])
assert found["text"][:] == ["yes"] + [None] * 5, "words are kept now"
assert found["label"][:] == [1, 2, 3, 10, 11, 12], "labels are kept now"
print("still so")
PY
HF_HUB_OFFLINE=1 env/bin/python show.py
