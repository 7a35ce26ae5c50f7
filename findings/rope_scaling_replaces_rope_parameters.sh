#!/usr/bin/env bash
# Guess:    config.json with the new rope_parameters and an old rope_scaling or rope_theta beside it
#           is read by the new key, or refused.
# Instead:  rope_scaling replaces rope_parameters whole, and lends it nothing but its own content;
#           rope_theta beside rope_parameters is passed over, though it is obeyed without it. So one
#           file that a tool "completed" with the old key can mean other positions than it says.
# Versions: transformers 5.24.0 (no torch is needed to read a config)
# Date:     2026-11-29
# Output:   both: {'type': 'linear', 'factor': 2.0, 'rope_theta': 10000.0, 'rope_type': 'linear'}
#           theta beside: 1000.0
#           theta alone: 500.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
from transformers import LlamaConfig

new = {"rope_type": "default", "rope_theta": 1000.0}
old = {"type": "linear", "factor": 2.0}
both = LlamaConfig.from_dict({"rope_parameters": new, "rope_scaling": old}).rope_parameters
beside = LlamaConfig.from_dict({"rope_parameters": new, "rope_theta": 500.0}).rope_parameters
alone = LlamaConfig.from_dict({"rope_theta": 500.0}).rope_parameters
print("both:", both)
print("theta beside:", beside["rope_theta"])
print("theta alone:", alone["rope_theta"])
assert both["rope_type"] == "linear" and both["rope_theta"] == 10000.0, "changed"
assert (beside["rope_theta"], alone["rope_theta"]) == (1000.0, 500.0), "changed"
PYTHON
echo "still so"
