#!/usr/bin/env bash
# Guess:    a message whose content is a text is laid out by every chat template that transformers takes,
#           or refused by it.
# Instead:  templates of models that see pictures go over the content as a list of parts. Of a text they
#           then see characters, none of which is a part, and write the turn without its words: no
#           warning, neither for a prompt nor for a row to train on. Given as a part, the words are there.
# Versions: transformers 5.24.0, tokenizers 0.23.3, jinja2 3.1.6; chat templates of trl 1.16.0
# Date:     2026-11-29
# Output:   idefics3: text lost, part kept
#           llava_next: text lost, part kept
#           smolvlm: text lost, part kept
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
"$folder/venv/bin/pip" download -q --no-deps --only-binary :all: -d "$folder" trl==1.16.0
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import os
import pathlib
import zipfile

import tokenizers
import transformers

(wheel,) = pathlib.Path(os.environ["FOLDER"]).glob("trl-*.whl")
library = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library)


def becomes(content, template):
    message = {"role": "user", "content": content}
    try:
        text = tokenizer.apply_chat_template([message], chat_template=template, tokenize=False)
    except Exception:
        return "refused"
    return "kept" if "hello" in text else "lost"


found = []
for name in ("idefics3", "llava_next", "smolvlm"):
    template = zipfile.ZipFile(wheel).read(f"trl/chat_templates/{name}.jinja").decode()
    as_text = becomes("hello", template)
    as_part = becomes([{"type": "text", "text": "hello"}], template)
    found.append(f"{name}: text {as_text}, part {as_part}")
print("\n".join(found))
assert found == [
    "idefics3: text lost, part kept",
    "llava_next: text lost, part kept",
    "smolvlm: text lost, part kept",
]
PYTHON
