"""Programs that are compared, each in a process of its own.

So neither disturbs the other's threads or memory. On a CPU they take turns, so that a noisy minute
hits all of them; on an accelerator one ends before the next starts, since its memory may not hold
both, and each has the card as it would have it alone. Where it holds all of them they may take
turns there, too, and compile at the same time, in the time of the slowest.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks import results
from lm.system import allocator

TOGETHER = "all sides start and compile at once and take turns: a device must hold all of them"
ENVIRONMENT = {
    # Compilation is measured, and torch would find it in a cache.
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    # Torch's threads sleep while they have nothing to do, as XLA's do, and do not take the cores
    # from the side whose turn it is. GNU's OpenMP reads the one, LLVM's the other.
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    # All have the memory settings that `launch.py` makes for us.
    allocator.ENVIRONMENT: allocator.HUGE_PAGES,
}


class Side:
    """A process that runs something when told to.

    Args:
      module: of the benchmark, which calls `serve` when it is given --side.
      name: of the side.
      flags: what the process is told besides this one's own arguments.
      python: runs the process.
    """

    def __init__(
        self, module: str, name: str, flags: Iterable[str] = (), python: str = sys.executable
    ):
        self._process = subprocess.Popen(
            [python, "-m", module, *sys.argv[1:], *flags, f"--side={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | os.environ,
        )
        self.facts = self._answer()

    def run(self, question: Any) -> dict[str, Any]:
        """What the other process answers to this question; see `serve`."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process, and with it what it holds of a device."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            print(line, end="", file=sys.stderr)  # What a library has to say.
        raise SystemExit("one side of the benchmark died; its own message stands above")


def serve(
    facts: dict[str, Any],
    run: Callable[[Any], Any],
    peak_bytes: Callable[[], int | None],
    settle: Callable[[], None] = lambda: None,
) -> None:
    """One side: prints its facts, then for each line of stdin how long a run took.

    Args:
      facts: what the side says of itself.
      run: does what a question asks for, waits for the device, and says something of what came
        out, by which sides can be compared, if it likes.
      peak_bytes: the most that the device has held so far; None where nobody counts.
      settle: is called before each run but the first, and not counted. Some virtual machines give
        memory that was free for a second back to their host, so that a side that has waited for
        its turn pays for it once more, which one that is alone never does.
    """
    print(json.dumps(facts), flush=True)
    for i, line in enumerate(sys.stdin):
        question = json.loads(line)
        if i:
            settle()
        start, spent = time.perf_counter(), time.process_time()
        said = run(question)
        answer = {
            "said": said,
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - spent,  # Of all threads.
            "peak_bytes": peak_bytes(),
        }
        print(json.dumps(answer), flush=True)


class Found(NamedTuple):
    """What one side answered to one question.

    facts: what the side says of itself.
    seconds: of each round.
    processor_seconds: of each round, over all its threads.
    compile_seconds: by how much its very first run was longer.
    peak_bytes: the most that its device held, or the process on a CPU; None where nobody counts.
    said: what it said of what came out, in the last round.
    """

    facts: dict[str, Any]
    seconds: list[float]
    processor_seconds: list[float]
    compile_seconds: float
    peak_bytes: int | None
    said: Any = None


def compare(
    starts: dict[str, Callable[[], Side]],
    questions: Sequence[Any],
    rounds: int,
    *,
    together: bool,
    num_at_once: int = 1,
) -> list[dict[str, Found]]:
    """For each question what each side found.

    Args:
      starts: what starts a side, by name.
      questions: are asked one after the other; each is asked twice before it counts.
      rounds: how often it counts.
      together: the sides take turns; otherwise one ends before the next starts.
      num_at_once: how many sides may start and compile at the same time, if they are together.
    """
    if together:
        return _take_turns(starts, questions, rounds, num_at_once)
    alone = [_take_turns({name: start}, questions, rounds, 1) for name, start in starts.items()]
    return [{k: v for found in side for k, v in found.items()} for side in zip(*alone, strict=True)]


def _take_turns(
    starts: dict[str, Callable[[], Side]], questions: Sequence[Any], rounds: int, num_at_once: int
) -> list[dict[str, Found]]:
    with ThreadPoolExecutor(num_at_once) as pool:
        sides = dict(zip(starts, pool.map(lambda start: start(), starts.values()), strict=True))
        ask = lambda question: pool.map(lambda side: side.run(question), sides.values())
        answers = [_ask(sides, question, rounds, list(ask(question))) for question in questions]
    for side in sides.values():
        side.close()
    return answers


def _ask(
    sides: dict[str, Side], question: Any, rounds: int, answers: Sequence[dict[str, Any]]
) -> dict[str, Found]:
    """What each side found; `answers` are their first ones to this question."""
    first = {name: answer["seconds"] for name, answer in zip(sides, answers, strict=True)}
    last = {name: side.run(question) for name, side in sides.items()}  # Memory settles.
    seconds, spent = ({name: [] for name in sides} for _ in range(2))
    for r in range(rounds):
        for name in list(sides)[:: 1 if r % 2 else -1]:  # Who begins changes.
            last[name] = sides[name].run(question)
            seconds[name].append(last[name]["seconds"])
            spent[name].append(last[name]["processor_seconds"])
    return {
        name: Found(
            side.facts,
            seconds[name],
            spent[name],
            round(max(0.0, first[name] - statistics.median(seconds[name])), 2),
            last[name]["peak_bytes"],
            last[name].get("said"),
        )
        for name, side in sides.items()
    }


def ratio(ours: Found, peer: Found) -> float:
    """How many times as long the peer took: the median over rounds."""
    pairs = zip(peer.seconds, ours.seconds, strict=True)
    return round(statistics.median(theirs / own for theirs, own in pairs), 3)


def processor_seconds_of(ours: Found, peer: Found, num_steps: int) -> dict[str, float]:
    """Medians of both sides, of one of the steps that a round has."""
    return {
        f"{whose}processor_seconds": results.rounded(
            statistics.median(found.processor_seconds) / num_steps
        )
        for whose, found in (("", ours), ("peer_", peer))
    }


def memory_of(ours: Found, peer: Found) -> dict[str, float]:
    """Both peaks and their ratio, as far as they are counted."""
    if ours.peak_bytes is None or peer.peak_bytes is None:
        return {"peak_bytes": ours.peak_bytes, "peer_peak_bytes": peer.peak_bytes}
    return {
        "peak_bytes": ours.peak_bytes,
        "peer_peak_bytes": peer.peak_bytes,
        "memory_ratio": round(peer.peak_bytes / ours.peak_bytes, 3),
    }


def device() -> tuple[str, int | None]:
    """Platform of JAX's default devices, cpu, gpu or tpu, and bytes that it may take of one.

    Another process is asked, so that this one takes no memory of a device. None on a CPU.
    """
    program = (
        "import jax; stats = jax.local_devices()[0].memory_stats() or {}; "
        "print(jax.default_backend(), stats.get('bytes_limit', 0))"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return found[-2], int(found[-1]) or None


def platform() -> str:
    """Of JAX's default devices, as `device` has it."""
    return device()[0]


def jax_peak_bytes() -> int | None:
    """The most that JAX's first device held; on a CPU, what the process had in memory."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else process_peak_bytes()


def torch_peak_bytes() -> int | None:
    """The same of torch's."""
    import torch

    return (
        torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else process_peak_bytes()
    )


def process_peak_bytes() -> int | None:
    """The most that this process had in memory; None where the kernel does not say."""
    # Not `getrusage`, whose maximum starts with what the process had that this one was forked from.
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else None
