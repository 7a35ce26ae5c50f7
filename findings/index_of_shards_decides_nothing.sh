#!/usr/bin/env bash
# Guess:    the weight_map of model.safetensors.index.json says which file each tensor comes from; and
#           a model whose config.json says that its output repeats its embedding has just one of them.
# Instead:  model.safetensors beside an index is read in place of it; of an index, only the set of file
#           names matters: all tensors of these files are loaded, and of one that two files hold the
#           last file's wins, whichever the index names. A tied model whose file holds another output
#           is loaded untied, without a word, while its config goes on to say that it is tied.
# Versions: transformers 5.24.0, torch 2.13.0, safetensors 0.8.0
# Date:     2026-11-29
# Output:   the index beside a whole file: the whole file is read
#           a tensor that the index does not name: read
#           a tensor in two files, of which the index names the first: the second's is read
#           a tied model with another output: tie_word_embeddings=True, and yet not tied
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 torch==2.13.0 safetensors==0.8.0
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.logging.set_verbosity_error()
root = pathlib.Path(os.environ["FOLDER"])
sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
config = transformers.LlamaConfig(vocab_size=16, **sizes)
transformers.LlamaForCausalLM(config).save_pretrained(root / "one")
tensors = load_file(root / "one/model.safetensors")
norm = "model.norm.weight"


def save(name, tensors, file):
    save_file(tensors, root / name / file, metadata={"format": "pt"})


def read(name, weight_map=None):
    if weight_map:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (root / name / "model.safetensors.index.json").write_text(index)
    return transformers.LlamaForCausalLM.from_pretrained(root / name)


shutil.copytree(root / "one", root / "both")
save("both", {k: v + 1 for k, v in tensors.items()}, "a.safetensors")
found = read("both", dict.fromkeys(tensors, "a.safetensors")).model.norm.weight
assert torch.equal(found, tensors[norm]), "changed"
print("the index beside a whole file: the whole file is read")

(root / "both/model.safetensors").unlink()
listed = {k: "a.safetensors" for k in tensors if k != norm}
assert torch.equal(read("both", listed).model.norm.weight, tensors[norm] + 1), "changed"
print("a tensor that the index does not name: read")

save("both", {norm: tensors[norm] + 5, "other": torch.ones(1)}, "b.safetensors")
listed = dict.fromkeys(tensors, "a.safetensors") | {"other": "b.safetensors"}
assert torch.equal(read("both", listed).model.norm.weight, tensors[norm] + 5), "changed"
print("a tensor in two files, of which the index names the first: the second's is read")

path = root / "one/config.json"
path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
model = read("one")
tied = torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
assert model.config.tie_word_embeddings and not tied, "changed"
print("a tied model with another output: tie_word_embeddings=True, and yet not tied")
PYTHON
echo "still so"
