#!/usr/bin/env bash
# Guess: pipelines treat what they are given alike: a text that is too long is cut, or refused, by all of them; and the one
#   number of a regressor is shown as it is.
# Seen:  token-classification reads the beginning of a long text and says nothing of the rest, while text-classification fails
#   on the same text for its tensors' sizes. A model of one output gives its number squashed into 0 to 1 by a sigmoid, unless
#   its config.json says problem_type="regression", which nothing asks for in training by a loss of one's own.
# With:  transformers 5.24.0, torch 2.13.0, November 2026.
# Output:
#   one output, as the model gives it: -0.2571; by the pipeline: 0.4361; with problem_type=regression: -0.2571
#   token-classification: of 40 words 6 have a tag, the last one ends at character 29 of 200
#   text-classification: RuntimeError: The size of tensor a (42) must match the size of tensor b (8) at non-singleton dimension 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0 torch==2.13.0
cd "$folder"
cat > run.py <<'PYTHON'
import pathlib

import torch
import transformers as t

t.logging.set_verbosity_error()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film"]
pathlib.Path("vocab.txt").write_text("\n".join(words))
tokenizer = t.BertTokenizerFast("vocab.txt", model_max_length=8)
sizes = dict(
    vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=8,
)


def pipeline(task, make, **config):
    torch.manual_seed(0)
    model = make(t.BertConfig(**sizes, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model, t.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")


classify, tag = t.BertForSequenceClassification, t.BertForTokenClassification
model, number = pipeline("text-classification", classify, num_labels=1)
with torch.no_grad():
    given = model(**tokenizer("good film", return_tensors="pt")).logits.item()
_, said = pipeline("text-classification", classify, num_labels=1, problem_type="regression")
shown, whole = (p("good film")[0]["score"] for p in (number, said))
print(f"one output, as the model gives it: {given:.4f}; by the pipeline: {shown:.4f}; ", end="")
print(f"with problem_type=regression: {whole:.4f}")
assert abs(shown - torch.sigmoid(torch.tensor(given)).item()) < 1e-5 and abs(whole - given) < 1e-5

text = "good film " * 20
_, tags = pipeline("token-classification", tag, id2label={0: "A", 1: "B"})
found = tags(text)
print(f"token-classification: of {len(text.split())} words {len(found)} have a tag, ", end="")
print(f"the last one ends at character {found[-1]['end']} of {len(text)}")
assert len(found) == 6

try:
    number(text)
except RuntimeError as error:
    print(f"text-classification: RuntimeError: {error}")
else:
    raise SystemExit("text-classification takes the long text")
PYTHON
"$folder/venv/bin/python" run.py 2>/dev/null
