"""One side of `benchmarks.web_text`, run by the Python that has what it needs."""

import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable

PEERS = {"trafilatura": "trafilatura 2.3.1", "trafilatura_fast": "trafilatura 2.3.1, fast=True"}
_WARM_UP = 3  # Pages before the clock starts: imports and tables are paid once a process.


def main(side: str, paths: str) -> None:
    """Prints the seconds that a side takes for pages, named line by line, and their texts."""
    pages = [pathlib.Path(path).read_bytes() for path in paths.splitlines()]
    main_text, spent_elsewhere = _SIDES[side]()
    for page in pages[:_WARM_UP]:
        main_text(page)
    start = time.perf_counter(), time.process_time(), spent_elsewhere()
    found = [main_text(page) for page in pages]
    seconds = time.perf_counter() - start[0]
    spent = time.process_time() - start[1] + spent_elsewhere() - start[2]
    print(json.dumps({"seconds": seconds, "processor_seconds": spent, "texts": found}))


def _ours() -> tuple[Callable[[bytes], str], Callable[[], float]]:
    from lm.curation import web_text

    return lambda page: web_text.main_text(page).text, lambda: 0.0


def _bounded() -> tuple[Callable[[bytes], str], Callable[[], float]]:
    """Gives what a curation calls, whose work is done by a process of its own."""
    import multiprocessing

    from lm.curation import web_text

    extract = web_text.Extractor(web_text.Limits(10.0, 2_000_000_000))

    def spent() -> float:
        (process,) = multiprocessing.active_children()
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    return lambda page: extract(page).text, spent


def _trafilatura(**options: bool) -> tuple[Callable[[bytes], str], Callable[[], float]]:
    import trafilatura

    logging.disable()
    extract = lambda page: trafilatura.extract(page, include_comments=False, **options) or ""
    return extract, lambda: 0.0


_SIDES = {
    "ours": _ours,
    "bounded": _bounded,
    "trafilatura": _trafilatura,
    "trafilatura_fast": lambda: _trafilatura(fast=True),
}

if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.read())
