#!/bin/bash
# Guess: the log-likelihood that lm_eval gives to a continuation is that of the continuation's tokens.
# Instead: where a tokenizer's post-processor puts an end behind a text, lm_eval encodes the context with
#   that end, and takes what follows as many tokens of the whole text: the first token of the
#   continuation is dropped, and the end is scored in its place.
# Versions: lm_eval 0.4.13, transformers 5.24.0, tokenizers 0.23.3, Python 3.11. Date: 2026-11-29.
# Output seen:
#   without an end: context [2, 3], scored [4, 5]
#   with an end:    context [2, 3, 1], scored [5, 1]
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lm_eval==0.4.13 transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
from lm_eval.api.model import TemplateLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


class Model(TemplateLM):
    """Encodes texts as lm_eval's own model of transformers does by default."""

    backend = "causal"
    eot_token_id = prefix_token_id = 1

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def tok_encode(self, string, add_special_tokens=None, **_):
        more = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **more)

    def _loglikelihood_tokens(self, requests, **_):
        return [(context, text) for _, context, text in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False): ...
    def generate_until(self, requests, disable_tqdm=False): ...


def scored(has_end):
    names = ["<unk>", "</s>", "the", "quick", "brown", "fox"]
    library = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    if has_end:
        library.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    model = Model(PreTrainedTokenizerFast(tokenizer_object=library, eos_token="</s>"))
    return model._encode_pair("the quick", " brown fox")


plain, ended = scored(False), scored(True)
print("without an end: context %s, scored %s" % plain)
print("with an end:    context %s, scored %s" % ended)
assert plain == ([2, 3], [4, 5]), "changed"
assert ended == ([2, 3, 1], [5, 1]), "changed"
PY
