"""How fast are many clients served? `python -m benchmarks.serving` prints a JSON line a peer.

GPT-2 124M with random float32 weights is served to eight streams at once, beside `transformers
serve` as it is and with continuous batching. Each server is a process of its own, alone on the
machine while its turn lasts: it starts, answers a few tokens to each stream, then what is measured,
and ends. Processor seconds are those of the server.

Peers need `pip install "transformers[serving]==5.24.0"`.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

import openai

from benchmarks import decoder_folder, results, sides
from benchmarks.generation import SIZES

PEERS = {
    "serve": ("transformers serve", ()),
    "continuous": (
        "transformers serve --continuous-batching",
        ("--continuous-batching", "--cb-num-blocks=64", "--cb-max-batch-tokens=512"),
    ),
}
TARGET = {"ratio": 2.5, "first_token_ratio": 4.0}
_START_SECONDS = 300


class Burst(NamedTuple):
    """What as many streams at once got of a server, and what it took for that.

    first_seconds: until each stream had its first text.
    between_seconds: of each stream, the mean from one token to the next.
    """

    seconds: float
    processor_seconds: float
    first_seconds: list[float]
    between_seconds: list[float]
    texts: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="serve,continuous", help="beside ours; may be empty")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_streams", type=int, default=8)
    parser.add_argument("--prompt_characters", type=int, default=150, help="about 80 tokens")
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--int8", action="store_true", help="ours from matrices of 8-bit integers")
    parser.add_argument("--folder", type=pathlib.Path, help="kept; a temporary one unless given")
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    args = parser.parse_args()
    sizes = {name: getattr(args, name) for name in SIZES}
    names = ["ours", *filter(None, args.peers.split(","))]
    if unknown := set(names[1:]) - PEERS.keys():
        parser.error(f"--peers has {', '.join(unknown)}; there are {', '.join(PEERS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary)
        if not (folder / "model").exists():
            decoder_folder.make(folder / "model", **sizes)
        found: dict[str, list[Burst]] = {name: [] for name in names}
        for r in range(args.rounds):
            for name in names[:: 1 if r % 2 else -1]:  # Who begins changes.
                burst = _turn(name, folder, args)
                found[name].append(burst)
                print(f"{name}: {_shown(burst, args)}", file=sys.stderr, flush=True)
    for name in names:
        if name != "ours" or len(names) == 1:
            _emit(name, found["ours"], found[name], args, sizes)


def _turn(name: str, folder: pathlib.Path, args: argparse.Namespace) -> Burst:
    with _server(name, folder, args) as (url, process):
        client = openai.AsyncOpenAI(base_url=url, api_key="none", timeout=_START_SECONDS)
        prompts = decoder_folder.texts(2 * args.num_streams, args.prompt_characters)

        async def both() -> Burst:
            async with client:
                model = (await client.models.list()).data[0].id if name == "ours" else None
                model = model or str(folder / "model")
                # Other prompts, so that nothing of those that count is known.
                await _burst(client, model, process, prompts[args.num_streams :], 4)
                counted = prompts[: args.num_streams]
                return await _burst(client, model, process, counted, args.new_tokens)

        return asyncio.run(both())


async def _burst(client, model, process, prompts, new_tokens) -> Burst:
    start, spent = time.perf_counter(), _processor_seconds(process.pid)
    streams = [_stream(client, model, prompt, new_tokens) for prompt in prompts]
    answers = await asyncio.gather(*streams)
    return Burst(
        time.perf_counter() - start,
        _processor_seconds(process.pid) - spent,
        [first - start for first, _, _ in answers],
        [(last - first) / (new_tokens - 1) for first, last, _ in answers],
        [text for _, _, text in answers],
    )


async def _stream(client, model, prompt, new_tokens) -> tuple[float, float, str]:
    """Asks for a greedy text -> when it began, when it was whole, and the text."""
    pieces, times = [], []
    stream = await client.completions.create(
        model=model, prompt=prompt, max_tokens=new_tokens, temperature=0.0, stream=True
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].text:
            pieces.append(chunk.choices[0].text)
            times.append(time.perf_counter())
    return times[0], times[-1], "".join(pieces)


@contextlib.contextmanager
def _server(name: str, folder: pathlib.Path, args) -> Iterator[tuple[str, subprocess.Popen]]:
    """Starts a server -> its address, once it answers, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "launch.py", "--config=configs/serve.py"]
    command += [f"--config.checkpoint={folder / 'model'}", f"--config.port={port}"]
    command += [f"--config.num_slots={args.num_streams}", f"--config.int8={args.int8}"]
    if name != "ours":
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
        command += [str(folder / "model"), "--device=cpu", "--dtype=float32", f"--port={port}"]
        command += ["--host=127.0.0.1", *PEERS[name][1]]
    environment = sides.ENVIRONMENT | os.environ | {"LM_CACHE": str(folder / "cache")}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                said = (folder / f"{name}.log").read_text()[-3000:]
                raise SystemExit(f"{' '.join(command)} did not start:\n{said}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    """Whether somebody listens; servers bind at once, and accept when they are ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _processor_seconds(pid: int) -> float:
    """Of all threads of a process, on Linux."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _shown(burst: Burst, args) -> str:
    tokens = args.num_streams * args.new_tokens
    return (
        f"{tokens / burst.seconds:.1f} tokens/s, {burst.processor_seconds:.2f} processor seconds, "
        f"first token {statistics.median(burst.first_seconds):.2f} s"
    )


def _emit(name: str, ours: list[Burst], peer: list[Burst], args, sizes: dict[str, int]) -> None:
    num_tokens = args.num_streams * args.new_tokens
    median = lambda values: results.rounded(statistics.median(values))
    first = lambda burst: statistics.median(burst.first_seconds)
    between = lambda burst: statistics.median(burst.between_seconds)
    ratio = lambda of: round(
        statistics.median(of(b) / of(a) for a, b in zip(ours, peer, strict=True)), 3
    )
    is_peer = name != "ours"
    of_peer = {}
    if is_peer:
        alike = [a == b for a, b in zip(ours[0].texts, peer[0].texts, strict=True)]
        of_peer = dict(
            peer_processor_seconds=median(x.processor_seconds for x in peer),
            processor_ratio=ratio(lambda x: x.processor_seconds),
            peer_first_token_seconds=median(map(first, peer)),
            first_token_ratio=ratio(first),
            peer_between_tokens_seconds=median(map(between, peer)),
            texts_alike=sum(alike),
        )
    results.emit(
        "serving",
        device="cpu",
        packages=("jax", "starlette", "uvicorn", *(("torch", "transformers") * is_peer)),
        shape={
            "num_streams": args.num_streams,
            "prompt_characters": args.prompt_characters,
            "new_tokens": args.new_tokens,
            **sizes,
        },
        unit="tokens_per_second",
        ours=median(num_tokens / x.seconds for x in ours),
        peer=PEERS[name][0] if is_peer else None,
        theirs=median(num_tokens / x.seconds for x in peer) if is_peer else None,
        ratio=ratio(lambda x: x.seconds) if is_peer else None,
        target=TARGET if is_peer and sizes == SIZES else {},
        note="8-bit integers" if args.int8 else "",
        processor_seconds=median(x.processor_seconds for x in ours),
        first_token_seconds=median(map(first, ours)),
        between_tokens_seconds=median(map(between, ours)),
        rounds=len(ours),
        **of_peer,
    )


if __name__ == "__main__":
    main()
