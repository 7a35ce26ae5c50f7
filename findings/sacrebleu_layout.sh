#!/bin/bash
# `sacrebleu` scores what has a reference, and says nothing of the rest.
#
# Guess: references that do not fit the translations are refused.
# Instead: they are zipped. Of three translations with two references the third counts for nothing
# (BLEU 100). References grouped by sentence, [[all of the first], [all of the second]], where it
# wants them by column, give some score just as well.
# Versions: sacrebleu 2.6.0. Seen in November 2026:
#   third translation without a reference: 100.0
#   grouped by column: 100.0   grouped by sentence: 50.0
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q sacrebleu==2.6.0
cat > show.py <<'PY'
import sacrebleu

score = lambda *arguments: round(sacrebleu.corpus_bleu(*arguments).score, 1)
three = ["the cat sat down here", "a dog ran away today", "nothing of this is right"]
short = score(three, [["the cat sat down here", "a dog ran away today"]])
print("third translation without a reference:", short)
by_column = [[three[0], three[1]], ["one more way", "to say it"]]
by_sentence = [[three[0], "one more way"], [three[1], "to say it"]]
right, wrong = score(three[:2], by_column), score(three[:2], by_sentence)
print("grouped by column:", right, "  grouped by sentence:", wrong)
assert short == 100.0, "missing references are noticed now"
assert right == 100.0 and wrong < 60, "the layout is noticed now"
print("still so")
PY
env/bin/python show.py
