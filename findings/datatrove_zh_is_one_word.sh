#!/bin/bash
# A sentence of Chinese is one word where its language is called zh, zho or Languages.chinese.
#
# Guess: datatrove's word tokenizer of "zh", or of Languages.chinese, cuts Chinese into words; filters by
#   words, MinHash and decontamination go by these.
# Instead: only names of Mandarin or of a script do (cmn, cmn_Hani, zho_Hani). The others stand for
#   tokenizers of other rows of a table: zho, whose script is none of Chinese, is cut at white space. So
#   "hi" asks for a tokenizer of Kurmanji, and not of Hindi.
# Versions: datatrove 0.10.1, spaCy 3.8, jieba 0.42.1. Seen in December 2026:
#   zh, zho (which Languages.chinese is) -> ['中国的经济发展得很快', '。']
#   cmn, cmn_Hani, zho_Hani -> ['中国', '的', '经济', '发展', '得', '很快', '。']
#   hi -> ImportError: Please install `stanza` to use kmr word tokenizer
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q "datatrove[processing]==0.10.1" "spacy>=3.8,<3.9" jieba==0.42.1
cat > show.py <<'PY'
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer

words = lambda name: load_word_tokenizer(name).word_tokenize("中国的经济发展得很快。")
assert Languages.chinese == "zho"
for name in ("zh", "zho"):
    print(name, "->", found := words(name))
    assert found == ["中国的经济发展得很快", "。"], "it is cut into words now"
for name in ("cmn", "cmn_Hani", "zho_Hani"):
    print(name, "->", found := words(name))
    assert "经济" in found
try:
    load_word_tokenizer("hi")
except ImportError as error:
    print("hi ->", str(error)[:70])
    assert "kmr" in str(error), "it is Hindi now"
else:
    raise AssertionError("hi needs no stanza now")
print("still so")
PY
env/bin/python show.py 2> log || { cat log; exit 1; }
