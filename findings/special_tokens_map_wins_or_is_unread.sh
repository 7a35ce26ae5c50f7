#!/usr/bin/env bash
# Guess:    tokenizer_config.json has the last word on special tokens, and special_tokens_map.json fills up
#           what it does not say.
# Instead:  where tokenizer_config.json has added_tokens_decoder, the map is not read at all; where it has
#           not, the map has the last word. `add_bos_token` is obeyed beside vocab.json, and passed over
#           in silence beside tokenizer.json.
# Versions: transformers 5.24.0, tokenizers 0.23.3
# Date:     2026-11-29
# Output:   both files say bos:                       <map>
#           the same, with added_tokens_decoder:      <config>
#           add_bos_token beside vocab.json:          ['<config>', 'a']
#           add_bos_token beside tokenizer.json:      ['a']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3
FOLDER=$folder HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import pathlib

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

names = ["<config>", "<map>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
library = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
library.decoder = decoders.ByteLevel()


def load(name, map_=None, has_json=True, **config):
    folder = pathlib.Path(os.environ["FOLDER"], name)
    folder.mkdir()
    if has_json:
        library.save(str(folder / "tokenizer.json"))
    else:
        library.model.save(str(folder))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<config>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if map_:
        (folder / "special_tokens_map.json").write_text(json.dumps(map_))
    return transformers.AutoTokenizer.from_pretrained(folder)


said = {"bos_token": "<map>"}
bos = load("a", said).bos_token, load("b", said, added_tokens_decoder={}).bos_token
flagged = [load(str(j), has_json=j, add_bos_token=True) for j in (False, True)]
tokens = [t.convert_ids_to_tokens(t("a").input_ids) for t in flagged]
print("both files say bos:                      ", bos[0])
print("the same, with added_tokens_decoder:     ", bos[1])
print("add_bos_token beside vocab.json:         ", tokens[0])
print("add_bos_token beside tokenizer.json:     ", tokens[1])
assert bos == ("<map>", "<config>")
assert tokens == [["<config>", "a"], ["a"]]
PYTHON
