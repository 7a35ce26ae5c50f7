"""Asks more of a server than clients should: `python -m benchmarks.serve_load`.

Trains a tiny GPT-2 and a tiny classifier, serves both by configs/serve.py behind a key, and prints
what must hold, with what was seen: clients that leave, too many clients, bodies at random, SIGTERM
under load, what is compiled, and what logs tell. Two minutes on two cores. The exit code is 1 where
something did not hold.
"""

import argparse
import json
import pathlib
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator

from benchmarks.faults.commands import Place
from benchmarks.serve_load.mutations import mutated
from benchmarks.serve_load.serving import Serving, at_once, events

_COMPLETIONS = "/v1/completions"
_CANARY = "canary4711"
_SLOTS, _WAITING, _DRAIN_SECONDS = 4, 8, 3
_CLIENTS, _AT_ONCE = 120, 40
_MORE_MB = 32  # That a process may have grown by; what it frees it does not give back at once.
_USUAL = {"model": "run", "prompt": "def ", "max_tokens": 12, "temperature": 0, "logprobs": 2}
_REQUESTS = [
    (_COMPLETIONS, _USUAL),
    (_COMPLETIONS, _USUAL | {"n": 2, "temperature": 1, "echo": True, "stop": ["a", "b"]}),
    (_COMPLETIONS, _USUAL | {"stream": True, "stream_options": {"include_usage": True}}),
    (_COMPLETIONS, {"model": "run", "prompt": "x", "guided_choice": ["a", "b c"]}),
    ("/v1/chat/completions", {"model": "run", "messages": [{"role": "user", "content": "a"}]}),
    ("/v1/predict", {"model": "labels", "input": ["fine number 1", "poor"]}),
    ("/v1/classify", {"model": "labels", "records": [{"text": "fine"}]}),
    ("/v1/embeddings", {"model": "labels", "input": ["fine number 1", "poor"]}),
]

Found = tuple[str, bool, str]  # What must hold, whether it does, and what was seen.


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began, hold = time.monotonic(), True
    print("| what must hold | holds | seen |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="lm-serve-load-") as folder:
        for statement, holds, seen in _found(pathlib.Path(folder), args.mutations, args.seed):
            print(f"| {statement} | {'yes' if holds else 'NO'} | {seen} |", flush=True)
            hold &= holds
    print(f"\n{time.monotonic() - began:.0f} seconds, seed {args.seed}")
    return 0 if hold else 1


def _found(folder: pathlib.Path, num_mutations: int, seed: int) -> Iterator[Found]:
    place, key = Place(folder, num_steps=8), secrets.token_hex(32)
    place.must(place.pretraining(folder / "run"))
    place.must(place.fine_tuning(folder / "labels"))
    (folder / "key").touch(0o600)
    (folder / "key").write_text(key)
    serving = Serving(
        folder,
        key,
        checkpoint=f"run={folder}/run,labels={folder}/labels",
        port=0,
        key_file=folder / "key",
        num_slots=_SLOTS,
        max_waiting=_WAITING,
        drain_seconds=_DRAIN_SECONDS,
    )
    try:
        before = _choices(serving)
        yield _leaving(serving, seed)
        yield _overload(serving)
        yield _mutations(serving, num_mutations, seed)
        same = _choices(serving) == before
        yield "after all that, a text is the same to the bit", same, f"{len(before)} choice"
        num_compiled = serving.metric("lm_compilations_total")
        yield "nothing is compiled after the ready line", not num_compiled, f"{num_compiled:.0f}"
        yield _termination(serving)
        yield _secrecy(folder, serving, key)
    finally:
        serving.process.kill()
        serving.process.wait()


def _choices(serving: Serving) -> list:
    return json.loads(serving.answer(_COMPLETIONS, _USUAL)[1])["choices"]


def _leaving(serving: Serving, seed: int) -> Found:
    """Half of the clients leave: at once, or somewhere in a stream; the others read to the end."""
    rng = random.Random(seed)

    def client(asked: tuple[bool, bool, int]) -> None:
        leaves, in_stream, num_lines = asked
        connection = serving.ask(
            _COMPLETIONS,
            {"model": "run", "prompt": f"{_CANARY} ", "max_tokens": 40, "stream": in_stream},
        )
        if in_stream or not leaves:
            answer = connection.getresponse()
            for _ in range(num_lines if leaves else 0):
                answer.fp.readline()
            if not leaves:
                answer.read()
        connection.close()

    def round_of_clients() -> dict[str, int]:
        asked = [(i % 2 == 0, rng.random() < 0.5, rng.randrange(20)) for i in range(_CLIENTS)]
        for first in range(0, _CLIENTS, _AT_ONCE):
            at_once(client, asked[first : first + _AT_ONCE])
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            if not serving.metric("lm_active") + serving.metric("lm_waiting"):
                break
            time.sleep(0.1)
        time.sleep(1)
        return serving.held()

    before, after = round_of_clients(), round_of_clients()
    num_busy = serving.metric("lm_active") + serving.metric("lm_waiting")
    holds = not num_busy and after["MB"] <= before["MB"] + _MORE_MB
    holds &= all(after[name] <= before[name] for name in after if name != "MB")
    seen = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in after)
    statement = f"of {_CLIENTS} clients half leave: slots, tasks, files and memory as before"
    return statement, holds, f"{num_busy:.0f} slots in use; {seen}"


def _overload(serving: Serving) -> Found:
    """Ten times as many clients as may wait."""
    num, most = 10 * _WAITING, 0.0
    body = {"model": "run", "prompt": "x", "max_tokens": 40, "n": 16}

    def client(i: int) -> int | None:
        nonlocal most
        if i < num:
            return serving.answer(_COMPLETIONS, body)[0]
        for _ in range(20):
            most = max(most, serving.metric("lm_waiting"))
        return None

    statuses = Counter(filter(None, at_once(client, range(num + 1))))
    holds = {*statuses} == {200, 429} and most <= _WAITING
    seen = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
    return (
        f"{num} clients at once, {_WAITING} of which may wait, get 200 or 429",
        holds,
        f"{seen}; at most {most:.0f} waited",
    )


def _mutations(serving: Serving, num: int, seed: int) -> Found:
    rng, statuses = random.Random(seed), Counter()
    for _ in range(num):
        status, text = serving.answer(*mutated(rng, _REQUESTS))
        is_error = status != 200 and "message" in json.loads(text)["error"]
        statuses[status if is_error or status == 200 else "no error"] += 1
    holds = all(status == 200 or (status != "no error" and status < 500) for status in statuses)
    seen = ", ".join(f"{n} x {status}" for status, n in statuses.most_common())
    return f"{num} bodies changed at random never give 500", holds, seen


def _termination(serving: Serving) -> Found:
    """SIGTERM while streams are under way, of which some are longer than there is time for."""

    def client(i: int) -> str:
        if i == 0:
            time.sleep(0.5)
            serving.process.send_signal(signal.SIGTERM)
            return ""
        body = {"model": "run", "prompt": "x", "max_tokens": 60, "n": 128, "stream": True}
        status, data = serving.answer(_COMPLETIONS, body)
        if status != 200:
            return str(status)
        parts = events(data)
        choices = [choice for part in parts[:-1] for choice in part["choices"]]
        reasons = {c["index"]: c["finish_reason"] for c in choices if c["finish_reason"]}
        is_whole = parts[-1] == "[DONE]" and len(reasons) == body["n"]
        return ",".join(sorted({*reasons.values()})) if is_whole else "no reason"

    began = time.monotonic()
    ends = Counter(filter(None, at_once(client, range(_SLOTS + _WAITING + 1))))
    code = serving.process.wait(60)
    seconds = time.monotonic() - began
    holds = code == 0 and not ends.keys() - {"length", "stop", "length,stop", "429", "503"}
    holds &= ends.total() > ends["429"] + ends["503"]
    seen = ", ".join(f"{n} x {end}" for end, n in ends.most_common())
    statement = "SIGTERM under load cuts no stream without a reason, and the exit code is 0"
    return statement, holds, f"{seen}; exit code {code} after {seconds:.1f} s"


def _secrecy(folder: pathlib.Path, serving: Serving, key: str) -> Found:
    (serving.logs / "stdout").write_text(serving.said + serving.process.stdout.read())
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / "key"]
    contents = [path.read_bytes() for path in files]
    num = sum(key.encode() in data or _CANARY.encode() in data for data in contents)
    seen = f"in {num} of {len(files)} files"
    return "no file but the key's holds the key or a prompt", num == 0, seen


if __name__ == "__main__":
    sys.exit(main())
