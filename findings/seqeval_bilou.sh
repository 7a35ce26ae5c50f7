#!/bin/bash
# `seqeval` joins neighbours in BILOU, unless both its mode and its scheme are named.
#
# Guess: classification_report and f1_score know U- (one word) and L- (last word) as they know B-
# and I-, for the scheme is documented.
# Instead: by default they know B, I, E and S alone. U- and L- only warn ("seems not to be NE tag")
# and go on with the entity before: two places of one word each that stand side by side are one.
# With mode="strict" and scheme=BILOU they are two.
# Versions: seqeval 1.2.2. Seen in November 2026:
#   default: 1 entity, f1 0.0    strict: 2 entities, f1 0.6666666666666666
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q setuptools wheel seqeval==1.2.2
cat > show.py <<'PY'
import warnings

from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, Entities

warnings.simplefilter("ignore")
gold = [["U-LOC", "U-LOC", "O"]]
predicted = [["U-LOC", "O", "O"]]
default = get_entities(gold[0]), f1_score(gold, predicted)
strict = Entities(gold, BILOU).entities[0], f1_score(gold, predicted, mode="strict", scheme=BILOU)
print(f"default: {len(default[0])} entity, f1 {default[1]}    "
      f"strict: {len(strict[0])} entities, f1 {strict[1]}")
assert len(default[0]) == 1 and default[1] == 0, "U- is known by default now"
assert len(strict[0]) == 2 and abs(strict[1] - 2 / 3) < 1e-9
print("still so")
PY
env/bin/python show.py
