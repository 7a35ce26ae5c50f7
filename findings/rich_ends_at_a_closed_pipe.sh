#!/bin/bash
# Guess:   printing by rich into a pipe that nobody reads raises BrokenPipeError, as print does.
# Instead: Console.print raises SystemExit(1): a program behind `| head -1` ends with exit code 1 and
#          no word, since no `except OSError` and no `except Exception` sees it. And it puts
#          /dev/null in place of the process's own stdout, whichever file the console writes to.
# Seen:    rich 15.0.0, Python 3.11, 2026-11-29:
#            SystemExit(1), and stdout is /dev/null
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rich==15.0.0
cat > "$folder/program.py" <<'PYTHON'
import os
import sys

import rich.console

reader, writer = os.pipe()
os.close(reader)
console = rich.console.Console(file=os.fdopen(writer, "w"))
try:
    console.print("a line")
    console.file.flush()
except Exception as error:
    print(f"changed: {error!r}")
    sys.exit(1)
except SystemExit as error:
    stdout = os.readlink("/proc/self/fd/1")
    print(f"{error!r}, and stdout is {stdout}", file=sys.stderr)
    sys.exit(0 if error.code == 1 and stdout == os.devnull else 1)
print("changed: nothing was raised")
sys.exit(1)
PYTHON
"$folder/venv/bin/python" "$folder/program.py" 2>&1
