#!/bin/bash
# Guess: decoding tokens up to the middle of a character leaves one U+FFFD for that character alone.
# Instead: ByteFallback (the decoder of Llama 2, Mistral, Gemma and other folders) replaces every byte of
#   the whole run of byte tokens, so that complete characters before the cut are lost, too: whoever
#   shows text while it is written, or cuts it at a number of tokens, sees them vanish and come back.
# Versions: tokenizers 0.23.3, Python 3.11. Date: 2026-11-29.
# Output seen:
#   8 tokens: '北京' + 2 of 3 bytes: '\ufffd' * 8
#   ByteLevel, the same bytes: '北京\ufffd'
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, decoders, models

data = "北京是".encode()[:8]
names = [f"<0x{byte:02X}>" for byte in range(256)]
fallback = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
fallback.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
whole, cut = fallback.decode(list(data[:6])), fallback.decode(list(data))
print("6 tokens:", repr(whole), "8 tokens:", ascii(cut))

from tokenizers import pre_tokenizers
level = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
level.pre_tokenizer, level.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
ids = level.encode("北京是").ids[:8]
print("ByteLevel, the same bytes:", ascii(level.decode(ids)))
assert whole == "北京" and cut == "\ufffd" * 8, "changed"
assert level.decode(ids) == "北京\ufffd", "changed"
PY
