#!/usr/bin/env bash
# Guess:    a template sees a message as it was given: {"content": null} is none there, a content that
#           is a list of parts is their text or an error where the template knows texts alone.
# Instead:  keys that are null are taken out first, so that `content is not none` is TRUE for a null
#           content (it is undefined). A list is written into the prompt as Python writes lists, without
#           a warning. And a message with "reasoning" gets "thinking" and "reasoning_content", too.
# Versions: transformers 5.24.0, tokenizers 0.23.3, jinja2 3.1.6
# Date:     2026-11-29
# Output:   null: none False, not none True, defined False
#           parts: User: [{'type': 'text', 'text': 'hi'}]
#           keys: content, reasoning, reasoning_content, role, thinking
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import tokenizers
import transformers

library = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library)


def text(message, template):
    template = "{% set m = messages[0] %}" + template
    return tokenizer.apply_chat_template([message], chat_template=template, tokenize=False)


null = text(
    {"role": "assistant", "content": None},
    "none {{ m.content is none }}, not none {{ m.content is not none }}, "
    "defined {{ m.content is defined }}",
)
parts = text(
    {"role": "user", "content": [{"type": "text", "text": "hi"}]}, "User: {{ m.content }}"
)
keys = text(
    {"role": "assistant", "content": "a", "reasoning": "b"}, "{{ m | sort | join(', ') }}"
)
print("null:", null)
print("parts:", parts)
print("keys:", keys)
assert null == "none False, not none True, defined False"
assert parts == "User: [{'type': 'text', 'text': 'hi'}]"
assert keys == "content, reasoning, reasoning_content, role, thinking"
PYTHON
