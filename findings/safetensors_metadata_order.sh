#!/bin/bash
# `safetensors` writes equal tensors and equal metadata as different files.
#
# Guess: save_file of the same tensors with the same metadata gives the same bytes, as it sorts the
# tensors; a folder's checksum therefore tells whether anything changed.
# Instead: with two keys or more, the metadata stands in another order each time, also within one
# process. With one key ({"format": "pt"}, what transformers writes) the files are equal.
# Versions: safetensors 0.8.0, numpy 2.4.6. Seen in November 2026:
#   1 key: 1 file of 40    2 keys: 2 different files of 40
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q safetensors==0.8.0 numpy==2.4.6
cat > show.py <<'PY'
import numpy as np
from safetensors.numpy import save

tensors = {"weight": np.arange(3, dtype=np.float32)}
one = {save(tensors, {"format": "pt"}) for _ in range(40)}
two = {save(tensors, {"format": "pt", "made_by": "me"}) for _ in range(40)}
print(f"1 key: {len(one)} file of 40    2 keys: {len(two)} different files of 40")
assert len(one) == 1
assert len(two) == 2, "the order is fixed now"
print("still so")
PY
env/bin/python show.py
