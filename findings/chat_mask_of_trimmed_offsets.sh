#!/usr/bin/env bash
# Guess:    the mask of an assistant's tokens does not depend on trim_offsets, which is about how
#           places in a text are reported.
# Instead:  the mask is made of the reported places. With trim_offsets, as RoBERTa's and many byte-level
#           tokenizers have it, a token that is a space alone has an empty place, so that a space
#           at the end of an answer is not in the mask: the ids are the same, the mask is not.
# Versions: transformers 5.24.0, tokenizers 0.23.3, jinja2 3.1.6
# Date:     2026-11-29
# Output:   trim_offsets=False: 'yes '
#           trim_offsets=True:  'yes'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes "}]
template = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def marked(trim_offsets):
    library = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library)
    row = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = [i for i, mark in zip(row["input_ids"], row["assistant_masks"]) if mark]
    return row["input_ids"], tokenizer.decode(ids)


(ids, plain), (same, trimmed) = marked(False), marked(True)
print("trim_offsets=False:", repr(plain))
print("trim_offsets=True: ", repr(trimmed))
assert ids == same and (plain, trimmed) == ("yes ", "yes")
PYTHON
