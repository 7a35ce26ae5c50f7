#!/bin/bash
# Guess:   an error in the get_config() of a config file reaches the program that parses its flags.
# Instead: config_flags raises another one of the same class with a text of its own. A class whose
#          constructor takes more than a text, such as json.JSONDecodeError or UnicodeDecodeError,
#          cannot be made so: the program gets a TypeError about that constructor, and the error
#          itself is to be found in its __context__ alone.
# Seen:    ml_collections 1.1.0, absl-py 2.4.0, Python 3.11, 2026-11-29:
#            flag --config=...: JSONDecodeError.__init__() missing 2 required positional arguments: 'doc' and 'pos'
#            in its __context__: Expecting value: line 1 column 1 (char 0)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ml_collections==1.1.0 absl-py==2.4.0
cat > "$folder/config.py" <<'PYTHON'
import json

import ml_collections


def get_config():
    return ml_collections.ConfigDict(json.loads("an empty file, say"[:0]))
PYTHON
cat > "$folder/program.py" <<'PYTHON'
import json
import sys

from absl import flags
from ml_collections import config_flags

config_flags.DEFINE_config_file("config")
try:
    flags.FLAGS(["program", f"--config={sys.argv[1]}"])
except Exception as error:
    print(str(error).splitlines()[0])
    context = error
    while context is not None and not isinstance(context, json.JSONDecodeError):
        context = context.__context__
    print(f"in its __context__: {context}")
    is_lost = "required positional arguments" in str(error) and context is not None
    sys.exit(0 if is_lost else 1)
print("changed: nothing was raised")
sys.exit(1)
PYTHON
"$folder/venv/bin/python" "$folder/program.py" "$folder/config.py"
