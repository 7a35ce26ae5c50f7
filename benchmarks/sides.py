"""Two programs that take turns, each in a process of its own.

So a noisy minute hits both, and neither disturbs the other's threads or memory.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any


class Side:
    """A process that measures when told to.

    Args:
      module: of the benchmark, which calls `serve` when it is given --side.
      name: of the side.
      flags: what the process is told besides this one's own arguments.
    """

    def __init__(self, module: str, name: str, flags: Iterable[str] = ()):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *sys.argv[1:], *flags, f"--side={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # On a GPU the sides share its memory.
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        self.facts = self._answer()

    def measure(self, question: Any = None) -> float:
        """What the other process's `measure` returns for this question."""
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("one side of the benchmark died; its own message stands above")
        return json.loads(line)


def serve(facts: dict[str, Any], measure: Callable[[Any], float]) -> None:
    """One side: prints its facts, then a measurement for each line of stdin."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), flush=True)


def take_turns(sides: dict[str, Side], rounds: int, question: Any = None) -> dict[str, list[float]]:
    """Measurements by side; who begins changes from round to round."""
    found = {name: [] for name in sides}
    for r in range(rounds):
        for name in list(sides)[:: 1 if r % 2 else -1]:
            found[name].append(sides[name].measure(question))
    return found


def ratio(found: dict[str, list[float]], peer: str, ours: str = "ours") -> float:
    """How many times as long the peer took: the median over rounds."""
    pairs = zip(found[peer], found[ours], strict=True)
    return round(statistics.median(theirs / own for theirs, own in pairs), 3)
