#!/bin/bash
# A list is left out of a page's main text if it stands near the root, whatever it holds.
#
# Guess: resiliparse's main_content leaves out lists of links, as menus are.
# Instead: a <ul> with fewer than three elements between it and the root's <html> is left out, prose or
#   not; so are the steps of a recipe in <body><main><article><ul>. An <ol> stays, and so does the
#   same <ul> one element deeper. A page that is a list has no text at all.
# Versions: resiliparse 2.0.1. Seen in December 2026:
#   body: 'It is a cake.'; main article: 'It is a cake.'; div div div: 'It is a cake. Mix. Wait.'
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q resiliparse==2.0.1
cat > show.py <<'PY'
from resiliparse.extract.html2text import extract_plain_text


def main_text(above, body):
    for tag in reversed(above.split()):
        body = f"<{tag}>{body}</{tag}>"
    text = extract_plain_text(f"<html><body>{body}</body></html>", main_content=True)
    return " ".join(text.replace("•", " ").split())


page = "<p>It is a cake.</p><{0}><li>Mix.</li><li>Wait.</li></{0}>"
found = {above: main_text(above, page.format("ul")) for above in ("", "main", "main article")}
deep = main_text("div div div", page.format("ul"))
numbered = main_text("", page.format("ol"))
alone = main_text("", "<ul><li>Mix the flour.</li><li>Wait for an hour.</li></ul>")
for above, text in found.items():
    print(above or "body", "->", repr(text))
print("div div div ->", repr(deep), "; <ol> ->", repr(numbered), "; a list alone ->", repr(alone))
assert set(found.values()) == {"It is a cake."} and alone == "", "lists are read there now"
assert deep == "It is a cake. Mix. Wait." and "Mix." in numbered
print("still so")
PY
env/bin/python show.py
