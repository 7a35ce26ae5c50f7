#!/bin/bash
# Words are joined with nothing between them before n-grams are compared, so different ones are equal.
#
# Guess: datatrove's GopherRepetitionFilter takes an n-gram for a duplicate if its words stood before.
# Instead: "alpha beta" is a duplicate of "alphab eta"; a text that repeats nothing is dropped.
# Versions: datatrove 0.10.1. Seen in December 2026:
#   'alpha beta gamma delta epsilon one two alphab eta gammad elta epsilon' ->
#   (False, 'duplicated_5_n_grams'); with the last five in another order: True
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q "datatrove[processing]==0.10.1" spacy
cat > show.py <<'PY'
from datatrove.data import Document
from datatrove.pipeline.filters import GopherRepetitionFilter

words = ["alpha", "beta", "gamma", "delta", "epsilon", "one", "two"]
others = ["alphab", "eta", "gammad", "elta", "epsilon"]  # The letters of the first five.
none = dict.fromkeys(["dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"])
rule = GopherRepetitionFilter(**none, top_n_grams=(), dup_n_grams=((5, 0.15),))
text = " ".join([*words, *others])
found = rule.filter(Document(text=text, id=""))
apart = rule.filter(Document(text=" ".join([*words, *reversed(others)]), id=""))
print(repr(text), "->", found, "; with the last five in another order:", apart)
assert found == (False, "duplicated_5_n_grams"), "it tells words apart now"
assert apart is True
print("still so")
PY
env/bin/python show.py
