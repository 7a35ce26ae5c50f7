#!/bin/bash
# Text that is well is changed by the repair of Unicode, if it is Chinese.
#
# Guess: ftfy.fix_text leaves text alone that was never spoilt.
# Instead: by default it makes ASCII of full-width punctuation, digits and letters, which Chinese is
# written with, and straightens curled quotes; and what was GB18030, read as Latin-1, it makes worse.
# Versions: ftfy 6.3.1. Seen in December 2026:
#   '他说：“１２％，（全角）。”' -> '他说:"12%,(全角)。"'; with five settings off: as it was
#   '中文编码' as GB18030 read as Latin-1: 'ÖÐÎÄ±àÂë' -> 'ÖÐÎıàÂë'
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q ftfy==6.3.1
cat > show.py <<'PY'
import ftfy

text = "他说：“１２％，（全角）。”"
off = dict(uncurl_quotes=False, fix_character_width=False, fix_latin_ligatures=False)
config = ftfy.TextFixerConfig(**off, fix_line_breaks=False, normalization=None)
spoilt = "中文编码".encode("gb18030").decode("latin-1")
print(repr(text), "->", repr(ftfy.fix_text(text)), "; five off:", repr(ftfy.fix_text(text, config)))
print(repr(spoilt), "->", repr(ftfy.fix_text(spoilt)))
assert ftfy.fix_text(text) != text, "it is left alone now"
assert ftfy.fix_text(text, config) == text
assert ftfy.fix_text(spoilt) not in (spoilt, "中文编码"), "it is mended, or left alone, now"
print("still so")
PY
env/bin/python show.py
