r"""How do costs of finding duplicates grow? `python -m benchmarks.duplicates_growth` says it.

    python -m benchmarks.duplicates_growth --peers=VENV/bin/python --texts=runs/texts \
        --num_documents=3000,100000

Half of the documents are English, of 1,100 characters, half Chinese, of 400, a third of them
copies; see `benchmarks.generated_texts`. Each side reads JSON Lines and writes what is kept, in
one process, for each language by itself: ours as a curation does it, on sorted files; the peer in
its four stages. The JSON lines have processor seconds of both languages, with the start of each
process, and the higher peak of memory. `--peer_documents` ends the peer's sizes earlier.

`--peers` is a Python with `pip install "datatrove[io,processing]==0.10.1" spacy jieba`.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import generated_texts, near_duplicates_peers, process_tree, results

_LENGTHS = {"english": ("en", (600, 1400)), "chinese": ("zh", (200, 520))}
_PEER = "datatrove"
_TARGET = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="", help="the Python that has it")
    parser.add_argument("--texts", default="", help="folder of texts, fetched unless it is there")
    parser.add_argument("--num_documents", default="300,1000", help="sizes, with commas between")
    parser.add_argument("--peer_documents", type=int, default=sys.maxsize, help="at most")
    args = parser.parse_args()
    sentences = generated_texts.read(args.texts)
    for size in map(int, args.num_documents.split(",")):
        has_peer = args.peers and size <= args.peer_documents
        sides = ["ours", *([_PEER] if has_peer else [])]
        with tempfile.TemporaryDirectory() as folder:
            paths = _write(pathlib.Path(folder), sentences, size)
            taken = {side: [_run(args, side, path) for path in paths] for side in sides}
        _emit(size, taken)


def _write(folder: pathlib.Path, sentences: dict[str, list[str]], size: int) -> list[pathlib.Path]:
    paths = []
    for name, (language, lengths) in _LENGTHS.items():
        if language in sentences:
            path = folder / name / "texts.jsonl"
            path.parent.mkdir()
            found = generated_texts.documents(sentences[language], language, lengths)
            with path.open("w") as file:
                for i, text in enumerate(itertools.islice(found, size // len(sentences))):
                    file.write(json.dumps({"id": str(i), "text": text}) + "\n")
            paths.append(path)
    return paths


def _run(args: argparse.Namespace, side: str, path: pathlib.Path) -> process_tree.Taken:
    python = args.peers if side == _PEER else sys.executable
    command = [python, "-m", "benchmarks.near_duplicates_peers", side]
    return process_tree.run(
        [*command, "whole", str(path), path.parent.name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _emit(size: int, taken: dict[str, list[process_tree.Taken]]) -> None:
    seconds = {side: sum(each.processor_seconds for each in of) for side, of in taken.items()}
    peaks = {side: max(max(each.peak_bytes.values()) for each in of) for side, of in taken.items()}
    theirs = seconds.get(_PEER)
    results.emit(
        "duplicates_growth",
        device="cpu",
        packages=("numpy", "scipy"),
        shape={"documents": size, "languages": len(taken["ours"])},
        unit="seconds",
        ours=results.rounded(seconds["ours"]),
        peer=theirs and near_duplicates_peers.PEERS[_PEER],
        theirs=theirs and results.rounded(theirs),
        ratio=theirs and round(theirs / seconds["ours"], 2),
        target={"ratio": _TARGET} if theirs else {},
        note="processor seconds",
        peak_bytes=peaks,
        seconds_of={
            side: [results.rounded(each.processor_seconds) for each in of]
            for side, of in taken.items()
        },
    )


if __name__ == "__main__":
    main()
