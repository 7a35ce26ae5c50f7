#!/usr/bin/env bash
# Guess:    normalizers.Precompiled with the rules of a SentencePiece model changes text as the model does.
# Instead:  it looks up a letter and the marks on it together, and takes what it finds for the first of
#           them as the whole, so that a mark without an entry is dropped; where they are six bytes or
#           more it looks up each alone, so that the halfwidth letters of Japanese lose their marks'
#           composition. So do all tokenizers that are converted to tokenizer.json (T5, XLM-R, ...).
# Versions: tokenizers 0.23.3, sentencepiece 0.2.3
# Date:     2026-11-29
# Output:   U+209A U+0326: sentencepiece ['U+0070', 'U+0326'], Precompiled ['U+0070']
#           U+FF76 U+FF9E: sentencepiece ['U+30AC'], Precompiled ['U+30AB', 'U+3099']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3 sentencepiece==0.2.3 'protobuf>=6'
"$folder/venv/bin/python" - <<'PYTHON'
import io

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers

model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a fox and a dog"] * 9),
    model_writer=model,
    vocab_size=20,
    hard_vocab_limit=False,
    minloglevel=2,
)
proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
precompiled = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
by_model = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
names = lambda text: [f"U+{ord(c):04X}" for c in text.strip("\u2581")]
found = {}
for text in ("\u209a\u0326", "\uff76\uff9e"):
    found[text] = names(by_model.Normalize(text)), names(precompiled.normalize_str(text))
    print(f"{' '.join(names(text))}: sentencepiece {found[text][0]}, Precompiled {found[text][1]}")
assert list(found.values()) == [
    (["U+0070", "U+0326"], ["U+0070"]),
    (["U+30AC"], ["U+30AB", "U+3099"]),
]
PYTHON
