#!/bin/bash
# Guess: a server of uvicorn that is told to stop by SIGTERM ends in order, with exit code 0, within some seconds.
# Instead: it waits for every answer that is under way, however long that takes, and then raises the signal
#   again, so that the process ends by it (143 to a shell).
# Versions: uvicorn 0.54.0, Python 3.11. Date: 2026-12-01.
# Output seen:
#   told to stop; an answer of 6 s was sent whole, the process went on for 5.0 s, and ended with 143
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uvicorn==0.54.0
cat > "$folder/slow.py" <<'PY'
import asyncio


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(12):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.5)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
PY
"$folder/venv/bin/python" - "$folder" <<'PY'
import signal
import subprocess
import sys
import threading
import time
import urllib.request

command = [f"{sys.argv[1]}/venv/bin/python", "-m", "uvicorn", "slow:app", "--port", "18765"]
server = subprocess.Popen(command, cwd=sys.argv[1], stderr=subprocess.PIPE, text=True)
while "running on" not in server.stderr.readline():
    pass
found = []
client = threading.Thread(
    target=lambda: found.append(urllib.request.urlopen("http://127.0.0.1:18765").read())
)
client.start()
time.sleep(1)
began = time.monotonic()
server.send_signal(signal.SIGTERM)
code = server.wait()
seconds = time.monotonic() - began
client.join()
print(
    f"told to stop; an answer of 6 s was sent {'whole' if len(found[0]) == 12 else 'in part'}, the "
    f"process went on for {seconds:.1f} s, and ended with {128 - code if code < 0 else code}"
)
assert len(found[0]) == 12 and seconds > 3, "changed"
assert code == -signal.SIGTERM, "changed"
PY
