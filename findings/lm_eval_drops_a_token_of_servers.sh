#!/bin/bash
# Guess: the client of lm_eval that asks a server of completions for the likelihood of a text sums up all of
#   the text's tokens.
# Instead: it asks for one new token behind the text, and takes the last token of the answer away as that one.
#   Where a server does not list a token that ends the text, as the end of text, the last token of the text
#   itself is taken away, without a word: the likelihood is too high, and a text may become greedy.
# Versions: lm_eval 0.4.13, Python 3.11. Date: 2026-12-01.
# Output seen:
#   the end listed:     (-5.0, False)
#   the end not listed: (-1.0, True)
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "lm_eval[api]==0.4.13"
"$folder/venv/bin/python" - <<'PY'
from lm_eval.models.openai_completions import LocalCompletionsAPI

# A context of two tokens and a text of two, of which the second is unlikely.
logprobs = [None, -1.0, -1.0, -4.0]
tops = [None, {"a": -1.0}, {"b": -1.0}, {"d": -0.5, "c": -4.0}]
end, top_of_end = -0.1, {"<|end|>": -0.1}


def likelihood(is_listed):
    told = {
        "token_logprobs": logprobs + [end] * is_listed,
        "top_logprobs": tops + [top_of_end] * is_listed,
    }
    answer = {"choices": [{"index": 0, "logprobs": told}]}
    return LocalCompletionsAPI.parse_logprobs(answer, ctxlens=[2])[0]


listed, not_listed = likelihood(True), likelihood(False)
print("the end listed:    ", listed)
print("the end not listed:", not_listed)
assert listed == (-5.0, False), "changed"
assert not_listed == (-1.0, True), "changed"
PY
