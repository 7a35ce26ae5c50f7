r"""How fast and how well is the main text of pages found? `python -m benchmarks.web_text` says it.

    python -m benchmarks.web_text --peer_python=PEER/bin/python --folder=runs/pages

The peer is trafilatura, in an environment of its own: `python3 -m venv PEER &&
PEER/bin/pip install trafilatura==2.3.1 lxml_html_clean`; without it ours is timed alone. `--folder`
gets manuals that Debian has as HTML, by `apt-get download`, unless it is there: Python's in
English, and three in Chinese. Without it, the pages are those of benchmarks/web_pages alone, which
were written for this, each with its main text.

Each side gets the bytes of the same pages, in turns; those of benchmarks/web_pages many times. The
JSON lines have medians of processor seconds; beside them, seconds by the clock, and the mean over
pages of F1, precision and recall of units (words, or characters of Chinese). Of manuals the main
text is that of the element which holds it. `bounded` is ours as a curation calls it, in a process
that is ended where a page takes too much.
"""

import argparse
import collections
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from benchmarks import results, web_text_peers
from lm.curation.text_units import normalized, units
from lm.curation.web_text import decode

TARGET = 10.0
_WRITTEN = pathlib.Path(__file__).parent / "web_pages"
_TIMES = 50  # That those are given, since they are small.
# Of a set: packages, globs in them, and the element with the main text.
_MANUALS = {
    "english": (("python3.11-doc",), ("usr/share/doc/python3.11/html/*/*.html",), "div.body"),
    "chinese": (
        ("debian-handbook", "debian-reference-zh-cn", "debian-faq-zh-cn"),
        (
            "usr/share/doc/debian-handbook/html/zh-CN/*.html",
            "usr/share/debian-reference/*.html",
            "usr/share/doc/debian/FAQ/zh-cn/*.html",
        ),
        "div.section, div.chapter, div.appendix, div.preface, div.book",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", help="of an environment with trafilatura")
    parser.add_argument("--folder", type=pathlib.Path, help="of manuals")
    parser.add_argument("--num_pages", type=int, default=150, help="of each set at most")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    golds = {path.with_suffix(".html"): path.read_text() for path in _WRITTEN.glob("*.txt")}
    _compare("written", dict(sorted(golds.items())), args, _TIMES)
    if args.folder is not None:
        fetch(args.folder)
        for name, (_, globs, element) in _MANUALS.items():
            found = sorted(path for each in globs for path in args.folder.glob(each))
            paths = [path for path in found if path.is_file() and not path.is_symlink()]
            random.Random(0).shuffle(paths)
            _compare(name, {p: _text_of(p, element) for p in paths[: args.num_pages]}, args)


def fetch(folder: pathlib.Path) -> None:
    """Unpacks the manuals into a folder, unless it is there."""
    if folder.exists():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    packages = [name for names, _, _ in _MANUALS.values() for name in names]
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["apt-get", "download", *packages], cwd=name, check=True)
        for path in sorted(pathlib.Path(name).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", path, unfinished], check=True)
    unfinished.rename(folder)


def _text_of(path: pathlib.Path, element: str) -> str:
    """All text of the first such element of a page; "" where there is none."""
    tree = HTMLTree.parse(decode(path.read_bytes()).text)
    found = tree.document.query_selector(element)
    return extract_plain_text(f"<body>{found.html}", links=False) if found else ""


def _compare(
    name: str, golds: dict[pathlib.Path, str], args: argparse.Namespace, times: int = 1
) -> None:
    """Times all sides on pages, and compares what they find with the main texts."""
    peers = web_text_peers.PEERS if args.peer_python else {}
    found = {side: [] for side in ("ours", "bounded", *peers)}
    for _ in range(args.rounds):  # In turn, so that a noisy minute hits all.
        for side in found:
            python = args.peer_python if side in peers else sys.executable
            found[side].append(_run(python, side, [*golds] * times))
    medians = {
        side: {key: statistics.median(each[key] for each in of) for key in _SECONDS}
        for side, of in found.items()
    }
    agreement = {side: _agreement(of[0]["texts"], golds) for side, of in found.items()}
    ours = medians["ours"]["processor_seconds"]
    for peer in peers or [None]:
        theirs = medians[peer]["processor_seconds"] if peer else None
        measured = {"": "ours", "bounded_": "bounded"} | ({"peer_": peer} if peer else {})
        more = {
            f"{prefix}{key}": results.rounded(value)
            for prefix, side in measured.items()
            for key, value in {
                "clock_seconds": medians[side]["seconds"],
                "processor_seconds": medians[side]["processor_seconds"],
                **agreement[side],
            }.items()
        }
        results.emit(
            f"web_text/{name}",
            device="cpu",
            packages=("resiliparse",),
            shape={
                "pages": len(golds) * times,
                "megabytes": round(times * sum(p.stat().st_size for p in golds) / 1e6, 2),
            },
            unit="seconds",
            ours=results.rounded(ours),
            peer=peer and web_text_peers.PEERS[peer],
            theirs=peer and results.rounded(theirs),
            ratio=peer and round(theirs / ours, 2),
            target={"ratio": TARGET} if peer == "trafilatura" else {},
            note="of processor time, for all pages",
            rounds=args.rounds,
            **more,
        )


_SECONDS = ("seconds", "processor_seconds")


def _run(python: str, side: str, paths: list[pathlib.Path]) -> dict[str, Any]:
    command = [python, "-m", "benchmarks.web_text_peers", side]
    told = "\n".join(map(str, paths))
    done = subprocess.run(command, input=told, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _agreement(texts: list[str], golds: dict[pathlib.Path, str]) -> dict[str, float]:
    """Means over pages that have a main text of F1, precision and recall of units."""
    pairs = zip(texts, golds.values(), strict=False)  # Of pages that were given again, the first.
    columns = zip(*(_scores(text, gold) for text, gold in pairs if gold), strict=True)
    return dict(zip(("f1", "precision", "recall"), map(statistics.fmean, columns), strict=True))


def _scores(text: str, gold: str) -> tuple[float, float, float]:
    found, wanted = (collections.Counter(units(normalized(each))) for each in (text, gold))
    shared, num_found, num_wanted = (found & wanted).total(), found.total(), wanted.total()
    f1 = 2 * shared / (num_found + num_wanted)
    return f1, shared / num_found if num_found else 0.0, shared / num_wanted


if __name__ == "__main__":
    main()
