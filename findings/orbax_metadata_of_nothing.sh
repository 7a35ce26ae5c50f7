#!/bin/bash
# Guess:   asking Orbax for the metadata of a checkpoint that is not there raises FileNotFoundError.
# Instead: with PyTreeCheckpointHandler it warns, and returns metadata without an item: code that
#          reads a folder that retention has just deleted goes on with None.
# Seen:    orbax-checkpoint 0.12.8, Python 3.11, 2026-11-29:
#            metadata: item_metadata=None
#            restore:  FileNotFoundError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check orbax-checkpoint==0.12.8
cat > "$folder/program.py" <<'PYTHON'
import pathlib
import sys

import orbax.checkpoint as ocp

gone = pathlib.Path(sys.argv[1]) / "gone"
with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    try:
        found = checkpointer.metadata(gone).item_metadata
        print(f"metadata: item_metadata={found}")
    except Exception as error:
        print(f"changed: metadata raises {type(error).__name__}")
        sys.exit(1)
    try:
        checkpointer.restore(gone)
    except Exception as error:
        print(f"restore:  {type(error).__name__}")
sys.exit(0 if found is None else 1)
PYTHON
"$folder/venv/bin/python" "$folder/program.py" "$folder" 2>"$folder/warnings"
