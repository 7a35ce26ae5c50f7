#!/bin/bash
# Guess: lm_eval's bbq scores the three answers of a question, and its disamb_bias_score is the
#   formula of the paper, from -1 (always against the bias) to 1 (always with it).
# Instead: the multiple choice is of twelve, for ten ways to say "unknown" take the place of one;
#   and a model that always answers against the bias gets 0.0, as one without any bias does.
# Versions: lm_eval 0.4.13, Python 3.11. Date: 2026-12-01.
# Output seen:
#   12 choices; always biased 1.0, once in ten -0.8, never 0.0
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lm_eval==0.4.13
"$folder/venv/bin/python" - <<'PY'
from lm_eval.tasks.bbq import utils

question = {"ans0": "The cook", "ans1": "The nurse", "ans2": "Not known"}
num = len(utils.doc_to_choice(question))


def score(num_biased):
    """Of ten questions that say enough, each answered by a group: (right, biased, group, says enough)."""
    answers = [(1.0, float(i < num_biased), 1.0, True) for i in range(10)]
    return float(utils.agg_disamb_bias_scores(answers))


always, once, never = score(10), score(1), score(0)
print(f"{num} choices; always biased {always}, once in ten {once}, never {never}")
assert num == 12 and (always, once) == (1.0, -0.8), "changed"
assert never == 0.0, "changed: the formula gives -1.0"
PY
