"""How fast are texts judged? `python -m benchmarks.curation_rules` prints one JSON line.

What is timed is repair, all rules of quality and masking, in processor time.
The peer is datatrove with ftfy, the same rules and its masking, in an environment of its own:
`python3 -m venv PEER && PEER/bin/pip install "datatrove[io,processing]==0.10.1" spacy jieba`, and
`--peer_python=PEER/bin/python`; without it there is no ratio. Both go on to all rules only with
what passes them, so documents that are good show the full cost: `--documents=FILE.jsonl` with
`text` in each line, `--language=zh` for Chinese. Unless given, they are the docstrings of the
running Python's library.
"""

import argparse
import ast
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import results
from lm.corpus.sources import make_source
from lm.curation.private_data import mask
from lm.curation.quality import judge, measure
from lm.curation.repair import repair
from lm.curation.thresholds import THRESHOLDS

TARGET = 4.0
_PEER = "import sys, curation_rules_peer; curation_rules_peer.main(*sys.argv[1:])"
_WARM_UP = 20  # Documents before the clock starts: imports and tables are paid once a process.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", help="of an environment with datatrove")
    parser.add_argument("--documents", help="JSON Lines")
    parser.add_argument("--language", default="en", choices=sorted(THRESHOLDS))
    parser.add_argument("--num_documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    texts = (_lines(args.documents) if args.documents else docstrings())[: args.num_documents]
    ours, theirs = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
        file.flush()
        for _ in range(args.rounds):  # In turn, so that a noisy minute hits both.
            ours.append(seconds(texts, args.language))
            if args.peer_python:
                theirs.append(peer_seconds(args.peer_python, file.name, args.language))
    results.emit(
        f"curation_rules/{args.language}",
        device="cpu",
        packages=("ftfy",),
        shape={
            "num_documents": len(texts),
            "characters_per_document": round(statistics.mean(map(len, texts))),
        },
        unit="seconds",
        ours=round(statistics.median(ours), 3),
        peer="datatrove 0.10.1" if theirs else None,
        theirs=round(statistics.median(theirs), 3) if theirs else None,
        ratio=round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2)
        if theirs
        else None,
        target={"ratio": TARGET} if theirs else {},
        note="of processor time, for all documents",
        rounds=args.rounds,
    )


def seconds(texts: list[str], language: str) -> float:
    """Seconds of processor time for all texts; those of the first few are not counted twice."""
    for text in texts[:_WARM_UP]:
        _judged(text, language)
    start = time.process_time()
    for text in texts:
        _judged(text, language)
    return time.process_time() - start


def peer_seconds(python: str, path: str, language: str) -> float:
    """Those of datatrove, in a process of another Python, which finds the peer in its folder."""
    command = [python, "-c", _PEER, path, language, str(_WARM_UP)]
    folder = pathlib.Path(__file__).parent
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def _judged(text, language):
    text = repair(text, encoding=True, controls=True)
    if judge(measure(text), THRESHOLDS[language]) is None:
        mask(text)


def _lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def docstrings() -> list[str]:
    """Docstrings of the standard library, of those with some length."""
    source = make_source("python_stdlib", split="train", spec="", field="")
    nodes = (node for document in source.documents() for node in _nodes(document.text))
    found = [ast.get_docstring(node) or "" for node in nodes]
    return [text for text in found if len(text) > 600]


def _nodes(code):
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


if __name__ == "__main__":
    sys.exit(main())
