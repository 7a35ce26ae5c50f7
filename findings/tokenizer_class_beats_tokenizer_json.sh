#!/usr/bin/env bash
# Guess:    AutoTokenizer reads tokenizer.json as it stands where there is one.
# Instead:  the class takes its vocabulary, merges and post-processor, and how text is normalised and
#           split is the class's own. LlamaTokenizer (the class that folders of Llama 2 name) puts no
#           space before a text that begins with one, as the file does; Qwen2Tokenizer is taken for
#           model_type qwen2 whatever tokenizer_class says, and cuts numbers into digits.
# Versions: transformers 5.24.0, tokenizers 0.23.3
# Date:     2026-11-29
# Output:   tokenizer.json:                        ['▁', '▁', 'x']
#           the same, by LlamaTokenizerFast:       ['▁', 'x']
#           tokenizer.json:                        ['12']
#           the same, in a folder of a qwen2:      ['1', '2']
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
from tokenizers import decoders, models, normalizers, pre_tokenizers


def both(library, text, config, tokenizer_class):
    folder = pathlib.Path(os.environ["FOLDER"], config["model_type"])
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    beside = {"tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(beside))
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    return library.encode(text).tokens, loaded.tokenize(text)


llama = tokenizers.Tokenizer(models.BPE({"<unk>": 0, "\u2581": 1, "x": 2}, [], unk_token="<unk>"))
steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
llama.normalizer = normalizers.Sequence(steps)
found = [both(llama, " x", {"model_type": "llama"}, "LlamaTokenizerFast")]

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
names = {name: i for i, name in enumerate([*alphabet, "12"])}
bytes_ = tokenizers.Tokenizer(models.BPE(names, [("1", "2")]))
bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_.decoder = decoders.ByteLevel()
found.append(both(bytes_, "12", {"model_type": "qwen2"}, "PreTrainedTokenizerFast"))

(llama_file, llama_class), (qwen2_file, qwen2_class) = found
print("tokenizer.json:                       ", llama_file)
print("the same, by LlamaTokenizerFast:      ", llama_class)
print("tokenizer.json:                       ", qwen2_file)
print("the same, in a folder of a qwen2:     ", qwen2_class)
assert (llama_file, llama_class) == (["\u2581", "\u2581", "x"], ["\u2581", "x"])
assert (qwen2_file, qwen2_class) == (["12"], ["1", "2"])
PYTHON
