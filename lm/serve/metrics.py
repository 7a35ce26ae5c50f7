"""Counts and measures, in the text that Prometheus reads (exposition format 0.0.4)."""

import bisect
import collections
from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_Labels = tuple[tuple[str, str], ...]


class Counter:
    """Counts what only grows, by labels; all are used by one thread."""

    kind = "counter"

    def __init__(self):
        self._values: collections.Counter[_Labels] = collections.Counter()

    def add(self, amount: float = 1, **labels: str) -> None:
        """Adds to the count of these labels."""
        self._values[tuple(labels.items())] += amount

    def samples(self) -> Iterator[tuple[str, _Labels, float]]:
        """Yields the ending of a sample's name, its labels and its value."""
        yield from (("", labels, value) for labels, value in self._values.items())


class Histogram:
    """Counts values by the bounds that they do not exceed."""

    kind = "histogram"

    def __init__(self, bounds: Sequence[float] = SECONDS):
        self._bounds, self._sum = bounds, 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[tuple[str, _Labels, float]]:
        """Yields as `Counter.samples` does."""
        num = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            num += count
            yield "_bucket", (("le", bound),), num
        yield "_sum", (), self._sum
        yield "_count", (), num


class Reading:
    """Reads values by labels when it is asked."""

    def __init__(self, kind: str, read: Callable[[], dict[_Labels, float]]):
        self.kind, self._read = kind, read

    def samples(self) -> Iterator[tuple[str, _Labels, float]]:
        """Yields as `Counter.samples` does."""
        yield from (("", labels, value) for labels, value in self._read().items())


class Metrics:
    """Holds what a server counts, each by its name with what it is."""

    def __init__(self):
        self._all: dict[str, tuple[str, Counter | Histogram | Reading]] = {}
        self.requests = self.add("lm_requests_total", "Requests by path and status.", Counter())
        self.tokens = self.add("lm_tokens_total", "Tokens read and written.", Counter())
        self.cancelled = self.add(
            "lm_cancelled_total", "Requests whose clients left before their end.", Counter()
        )
        self.first_token = self._seconds("first_token", "From a request to its first token.")
        self.between_tokens = self._seconds("between_tokens", "Between tokens, mean of a request.")
        self.whole = self._seconds("request", "From a request's first byte to its answer's last.")

    def _seconds(self, name: str, words: str) -> Histogram:
        return self.add(f"lm_{name}_seconds", words, Histogram())

    def add(self, name: str, words: str, one):
        """Adds a counter, histogram or reading under a name, and returns it."""
        self._all[name] = words, one
        return one

    def text(self) -> str:
        """Writes all of them."""
        lines = []
        for name, (words, one) in self._all.items():
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {one.kind}"]
            for ending, labels, value in one.samples():
                inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
                inside = f"{{{inside}}}" if labels else ""
                lines.append(f"{name}{ending}{inside} {value:.10g}")
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
