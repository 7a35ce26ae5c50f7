#!/usr/bin/env bash
# Guess:    tie_word_embeddings=false, as in config.json of T5 1.1 and Flan-T5, is kept, and says
#           that the model has an output matrix of its own.
# Instead:  it becomes true, and what it said moves to scale_decoder_outputs=false. A tool that reads
#           tie_word_embeddings of a folder that version 5 saved ties an output that is not tied, and
#           scales what should not be scaled. is_gated_act and dense_act_fn of the file replace what
#           feed_forward_proj says.
# Versions: transformers 5.24.0 (no torch is needed to read a config)
# Date:     2026-11-29
# Output:   read: tie_word_embeddings True, scale_decoder_outputs False
#           written: tie_word_embeddings True, scale_decoder_outputs False
#           gated: True gelu_new, though feed_forward_proj='relu'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
from transformers import T5Config

config = T5Config.from_dict({"tie_word_embeddings": False})
written = config.to_dict()
names = ("tie_word_embeddings", "scale_decoder_outputs")
show = lambda get: ", ".join(f"{name} {get(name)}" for name in names)
print("read:", show(lambda name: getattr(config, name)))
print("written:", show(written.get))
assert [written[name] for name in names] == [True, False], "changed"
other = {"feed_forward_proj": "relu", "is_gated_act": True, "dense_act_fn": "gelu_new"}
gated = T5Config.from_dict(other)
named = gated.feed_forward_proj
print(f"gated: {gated.is_gated_act} {gated.dense_act_fn}, though feed_forward_proj={named!r}")
assert (gated.is_gated_act, gated.dense_act_fn) == (True, "gelu_new"), "changed"
PYTHON
echo "still so"
