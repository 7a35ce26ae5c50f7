"""A curation of some hundred documents: what it reads, its command, and what it leaves."""

import hashlib
import itertools
import json
import os
import pathlib
import random
from collections.abc import Callable

from benchmarks.faults import commands

_CHARS, _NUM_FILES = 700, 5
_CHINESE = "第{}次洪水以后，河水很平静，渡船上没有人谈起过去。老人说，今年会来得早一些。"
_BAD = ("{", "[1]", "{}", '{"text": null}', '{"text": "\\ud800"}', '{"text": " "}')
_PAGE = "<html><head><title>{}</title></head><body><main><p>{}</p></main></body></html>"


def _write_inputs(folder: pathlib.Path, num_documents: int) -> None:
    """Writes texts, some of them copies, edited or no texts at all, as JSON Lines and as pages."""
    rng = random.Random(0)
    # Documents of this project: prose, tables and commands.
    text = "\n".join(path.read_text() for path in sorted((commands.ROOT / "docs").glob("*.md")))
    found = []
    for i in range(num_documents):
        start = rng.randrange(len(text) - _CHARS)
        one = text[start : start + _CHARS] if i % 4 else _CHINESE.format(i) * 5
        if i % 5 == 1:
            one += f" Mail bob{i}@example.org, or ask +86 138 0013 {8000 + i}."
        found.append(one)
        if i % 3 == 0:
            found.append(one)
        if i % 3 == 1:
            found.append(f"{one[:300]} changed {one[305:]}")
    rng.shuffle(found)
    lines = [*(json.dumps({"text": one}) for one in found[: -len(found) // 4]), *_BAD]
    rng.shuffle(lines)
    folder.mkdir()
    for i in range(_NUM_FILES):
        (folder / f"{i}.jsonl").write_text("\n".join(lines[i::_NUM_FILES]))
    for i, one in enumerate(found[-len(found) // 4 :]):
        (folder / f"{i}.html").write_text(_PAGE.format(i, one.replace("<", "&lt;")))
    item = json.dumps({"question": " ".join(found[0].split()[:12])})
    (folder / "items.jsonl").write_text(item)


def make_arguments(
    inputs: pathlib.Path, num_documents: int = 300
) -> Callable[[pathlib.Path], list[str]]:
    """Writes inputs; gives folder -> command that curates into it, by 1, 2, 3, 1, ... processes."""
    _write_inputs(inputs, num_documents)
    workers = itertools.cycle((1, 2, 3))
    return lambda folder: [
        "--config=configs/curate.py:inputs=lines+pages",
        f"--config.inputs.lines.path={inputs}/[0-9].jsonl",
        f"--config.inputs.pages.path={inputs}/*.html",
        f"--config.decontaminate.files={inputs}/items.jsonl",
        "--config.engine.num_shards=4",
        "--config.engine.sort_bytes=20000",  # So that there are many runs to merge.
        f"--config.engine.num_workers={next(workers)}",
        f"--workdir={folder}/corpus",
    ]


def outcome(folder: pathlib.Path) -> dict[str, str]:
    """Checksums of the corpus, all that tells of it, and all stages, less the number of workers."""
    found = commands.outcome_of_folder(folder)
    for name in ("card.md", "config.json"):
        lines = (folder / "corpus" / name).read_bytes().splitlines()
        kept = b"\n".join(line for line in lines if b"num_workers" not in line)
        found[f"corpus/{name}"] = hashlib.sha256(kept).hexdigest()
    return found


def left(folder: pathlib.Path) -> list[str]:
    """What a killed one leaves, and the one that goes on should have removed."""
    unfinished = [*folder.rglob("*.unfinished"), *folder.rglob("*.tmp"), *folder.rglob("runs")]
    return [str(path.relative_to(folder)) for path in unfinished]


def written(folder: pathlib.Path) -> int:
    """How many files of stages, and of the corpus, are there."""
    names = itertools.chain.from_iterable(files for _, _, files in os.walk(folder))  # May vanish.
    return sum(name.endswith((".jsonl.zst", "done.json", ".md", ".html", ".png")) for name in names)
