#!/usr/bin/env bash
# Guess:    return_assistant_tokens_mask marks the tokens of what stands inside of {% generation %}.
# Instead:  so it does where the tag stands in the template itself. Inside of a macro the place is
#           counted from what was written before the macro began, so that the mask begins too early and
#           holds as many characters of the turn's header, and the answer is left out.
# Versions: transformers 5.24.0, tokenizers 0.23.3, jinja2 3.1.6
# Date:     2026-11-29
# Output:   the tag in a loop:  'yes'
#           the tag in a macro: '[as'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
library = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
library.decoder = decoders.ByteLevel()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library)
messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
turn = (
    "[{{ m.role }}]{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
)
loop = "{% for m in messages %}" + turn + "{% endfor %}"
macro = "{% macro f(m) %}" + turn + "{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}"


def marked(template):
    row = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = [i for i, mark in zip(row["input_ids"], row["assistant_masks"]) if mark]
    return tokenizer.decode(ids)


texts = [tokenizer.apply_chat_template(messages, chat_template=t, tokenize=False) for t in (loop, macro)]
assert texts[0] == texts[1], texts
print("the tag in a loop: ", repr(marked(loop)))
print("the tag in a macro:", repr(marked(macro)))
assert (marked(loop), marked(macro)) == ("yes", "[as")
PYTHON
