#!/usr/bin/env bash
# Guess:    a template in additional_chat_templates/ is one more, beside the tokenizer's own.
# Instead:  as soon as one file is there, the chat_template of tokenizer_config.json is not read any
#           more: the tokenizer has the additional one alone, and the conversation that was laid out
#           before is refused, for "no default". (A chat_template.jinja beside it would be kept.)
# Versions: transformers 5.24.0, tokenizers 0.23.3, jinja2 3.1.6
# Date:     2026-11-29
# Output:   before: 'DEFAULT', which gives DEFAULT
#           with additional_chat_templates/rag.jinja: {'rag': 'RAG'}, which gives ValueError
#           with chat_template.jinja, too: {'default': 'FILE', 'rag': 'RAG'}, which gives FILE
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import pathlib

import tokenizers
import transformers

folder = pathlib.Path(os.environ["FOLDER"]) / "tokenizer"
library = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
transformers.PreTrainedTokenizerFast(tokenizer_object=library).save_pretrained(folder)
path = folder / "tokenizer_config.json"
path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "DEFAULT"}))


def read():
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    try:
        given = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except ValueError as error:
        assert "no default" in str(error), error
        given = "ValueError"
    return tokenizer.chat_template, given


before = read()
(folder / "additional_chat_templates").mkdir()
(folder / "additional_chat_templates" / "rag.jinja").write_text("RAG")
with_another = read()
(folder / "chat_template.jinja").write_text("FILE")
with_both = read()
print("before: {!r}, which gives {}".format(*before))
print("with additional_chat_templates/rag.jinja: {}, which gives {}".format(*with_another))
print("with chat_template.jinja, too: {}, which gives {}".format(*with_both))
assert before == ("DEFAULT", "DEFAULT")
assert with_another == ({"rag": "RAG"}, "ValueError")
assert with_both == ({"default": "FILE", "rag": "RAG"}, "FILE")
PYTHON
