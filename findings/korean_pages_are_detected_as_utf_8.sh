#!/bin/bash
# Korean in EUC-KR is detected, and then called UTF-8, which it is not.
#
# Guess: resiliparse's detect_encoding gives an encoding that the bytes can be decoded by.
# Instead: the mapping to HTML5's encodings, on by default, does not know the name cp949 that was
# detected, and makes UTF-8 of it.
# Versions: resiliparse 2.0.1. Seen in December 2026:
#   EUC-KR: detected cp949, mapped to utf-8; not that
#   GB 18030: detected gb18030, mapped to gb18030; decoded
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q resiliparse==2.0.1
cat > show.py <<'PY'
from resiliparse.parse.encoding import detect_encoding

texts = {
    "EUC-KR": "어제 저녁에 강가에서 오랜 친구를 만났는데, 그는 남쪽 도시에서 막 돌아온 길이었다. " * 20,
    "GB 18030": "昨天傍晚我在河边遇见一位老朋友，他刚从南方回来，说那里的天气已经很暖和了。" * 20,
}
found = []
for name, text in texts.items():
    data = text.encode(name.replace(" ", "").lower())
    mapped = detect_encoding(data)
    try:
        found.append("decoded" if data.decode(mapped) == text else "another text")
    except UnicodeDecodeError:
        found.append("not that")
    said = detect_encoding(data, html5_compatible=False)
    print(f"{name}: detected {said}, mapped to {mapped}; {found[-1]}")
assert found == ["not that", "decoded"], "it changed"
print("still so")
PY
env/bin/python show.py
