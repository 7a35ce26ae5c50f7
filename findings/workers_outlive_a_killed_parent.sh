#!/bin/bash
# Guess:   the workers of a ProcessPoolExecutor end when the process that made them is killed, for
#          the pipe that they read tasks from then closes.
# Instead: each worker holds the writing end of that pipe too, so that it never closes: they wait
#          for ever, adopted by process 1, with all that they have loaded.
# Seen:    Python 3.11.7 on Linux, start methods spawn and forkserver, 2026-11-29:
#            spawn: 2 of 2 workers live 5 s after their parent was killed
#            forkserver: 2 of 2 workers live 5 s after their parent was killed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/program.py" <<'PYTHON'
import concurrent.futures
import multiprocessing
import os
import sys
import time


def name(_):
    time.sleep(0.5)
    return os.getpid()


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print(*set(pool.map(name, range(4))), flush=True)
        time.sleep(60)
PYTHON
cat > "$folder/kill.py" <<'PYTHON'
import os
import signal
import subprocess
import sys
import time

changed = False
for method in ("spawn", "forkserver"):
    command = [sys.executable, sys.argv[1], method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    time.sleep(5)
    living = 0
    for worker in workers:
        try:
            os.kill(worker, signal.SIGKILL)
            living += 1
        except ProcessLookupError:
            pass
    print(f"{method}: {living} of {len(workers)} workers live 5 s after their parent was killed")
    changed |= living < len(workers)
sys.exit(changed)
PYTHON
python3 "$folder/kill.py" "$folder/program.py" 2>"$folder/warnings"
