#!/usr/bin/env bash
# Guess: stop_strings of a generation_config.json end texts in whatever writes them, at least in a pipeline, which has the
#   tokenizer that they need.
# Seen:  generate and the text-generation pipeline raise a ValueError that asks for the tokenizer, for every prompt; only one
#   that is passed with each call helps.
# With:  transformers 5.24.0, torch 2.13.0, November 2026.
# Output:
#   generate: ValueError
#   pipeline: ValueError
#   pipeline with tokenizer=: 3 new tokens at most, and no error
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0 torch==2.13.0
cd "$folder"
cat > run.py <<'PYTHON'
import tokenizers
import torch
import transformers as t

letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
pieces = {piece: i for i, piece in enumerate(["</s>", *letters])}
library = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, []))
library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
library.decoder = tokenizers.decoders.ByteLevel()
tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=library, eos_token="</s>")
sizes = dict(vocab_size=len(pieces), n_embd=8, n_layer=1, n_head=2, n_positions=16)
model = t.GPT2LMHeadModel(t.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
model.generation_config.stop_strings = ["film"]
model.save_pretrained("model")
tokenizer.save_pretrained("model")

write = t.pipeline("text-generation", "model", device="cpu")
ids = torch.tensor([tokenizer("good")["input_ids"]])
settings = dict(max_new_tokens=3, do_sample=False)
calls = {"generate": lambda: write.model.generate(ids, **settings), "pipeline": lambda: write("good", **settings)}
for name, call in calls.items():
    try:
        call()
    except ValueError as error:
        assert "could not locate a tokenizer" in str(error), error
        print(f"{name}: ValueError")
    else:
        raise SystemExit(f"{name} raises nothing")
write("good", tokenizer=write.tokenizer, **settings)
print("pipeline with tokenizer=: 3 new tokens at most, and no error")
PYTHON
"$folder/venv/bin/python" run.py 2>/dev/null
