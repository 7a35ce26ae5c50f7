#!/bin/bash
# Traditional Chinese is taken for Korean.
#
# Guess: langdetect says zh-tw of sentences in traditional characters, as it says zh-cn of simplified.
# Instead: of most it says ko, though there is no Hangul in them.
# Versions: langdetect 1.0.9. Seen in December 2026, of eight sentences in both scripts, seed 0:
#   traditional: ko 5, zh-tw 2, zh-cn 1; simplified: zh-cn 8
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q langdetect==1.0.9
cat > show.py <<'PY'
import collections

from langdetect import DetectorFactory, detect

DetectorFactory.seed = 0
traditional = """國會通過了新的預算案，總統表示歡迎。
他們在學校裡學習數學和歷史。
經濟發展帶來了許多機會。
臺灣的天氣在夏天非常炎熱。
這個問題很難回答，請給我一點時間。
醫生說他的病已經好了。
我們明天去圖書館還書。
專家認為環境保護非常重要。"""
simplified = """国会通过了新的预算案，总统表示欢迎。
他们在学校里学习数学和历史。
经济发展带来了许多机会。
台湾的天气在夏天非常炎热。
这个问题很难回答，请给我一点时间。
医生说他的病已经好了。
我们明天去图书馆还书。
专家认为环境保护非常重要。"""
found = [collections.Counter(map(detect, text.splitlines())) for text in (traditional, simplified)]
print("traditional:", dict(found[0]), "simplified:", dict(found[1]))
assert found[0]["ko"] > 4, "traditional Chinese is known now"
assert found[1] == {"zh-cn": 8}
print("still so")
PY
env/bin/python show.py
