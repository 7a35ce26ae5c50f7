#!/bin/bash
# Filters that are told the language drop every text of Chinese, by bounds and marks of English.
#
# Guess: GopherQualityFilter(language="cmn") and C4QualityFilter(language="cmn") judge Chinese as Chinese.
# Instead: the language chooses a tokenizer alone. Words of fewer than three characters on average are
#   out, and so is all Chinese. Lines that end in no ASCII mark, or have fewer than three words between
#   spaces, are taken out, and so are all of them.
# Versions: datatrove 0.10.1, spaCy 3.8, jieba 0.42.1. Seen in December 2026, of five sentences said in
#   both languages:
#   eng: GopherQualityFilter True, C4QualityFilter True, 69 words are left
#   cmn: GopherQualityFilter (False, 'gopher_below_avg_threshold'), C4QualityFilter (False,
#   'too_few_sentences'), no word is left
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q "datatrove[processing]==0.10.1" "spacy>=3.8,<3.9" jieba==0.42.1
cat > show.py <<'PY'
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter

english = """The economy of the country has grown quickly in recent years.
The life of the people in the villages has become much better than it was.
New roads were built, and schools and hospitals have moved into new houses.
Experts think that it is the task of the coming years to protect the environment.
The government has made a plan for that, which is to be discussed in spring."""
chinese = """这个国家的经济在最近几年里发展得很快。
农村里人民的生活比过去有了很大的改善。
新的公路修好了，学校和医院也搬进了新的房子。
专家认为，今后几年的任务是保护环境，提高质量。
政府已经提出了一个计划，将在春天进行讨论。"""


def judged(language, text):
    rules = [
        GopherQualityFilter(language=language, min_doc_words=20),
        C4QualityFilter(language=language),
    ]
    document = Document(text=text, id="")
    C4QualityFilter(language=language, min_num_sentences=-1).filter(document)
    return *(rule.filter(Document(text=text, id="")) for rule in rules), len(document.text.split())


print("eng:", english_judged := judged("eng", english))
print("cmn:", chinese_judged := judged("cmn", chinese))
assert english_judged[:2] == (True, True)
gopher, c4, words_left = chinese_judged
assert gopher == (False, "gopher_below_avg_threshold"), "it judges Chinese otherwise now"
assert c4 == (False, "too_few_sentences") and words_left == 0, "it knows lines of Chinese now"
print("still so")
PY
env/bin/python show.py 2> log || { cat log; exit 1; }
