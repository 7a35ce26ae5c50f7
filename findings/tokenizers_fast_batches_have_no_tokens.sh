#!/bin/bash
# `encode_batch_fast` of `tokenizers` gives as many tokens as ids, all of them "".
#
# Guess: as its documentation says, offsets are zeros, and all else is as encode_batch gives it.
# Instead: `.tokens` is a list of empty texts. Ids are right; take the texts by id_to_token.
# Versions: tokenizers 0.23.3. Seen in December 2026:
#   encode_batch ['ab'] [2]    encode_batch_fast [''] [2]
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q tokenizers==0.23.3
cat > show.py <<'PY'
from tokenizers import Tokenizer, models

tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
(usual,), (fast,) = tokenizer.encode_batch(["ab"]), tokenizer.encode_batch_fast(["ab"])
print(f"encode_batch {usual.tokens} {usual.ids}    encode_batch_fast {fast.tokens} {fast.ids}")
assert usual.ids == fast.ids == [2] and usual.tokens == ["ab"]
assert fast.tokens == [""], "it gives tokens now"
print("still so")
PY
env/bin/python show.py
