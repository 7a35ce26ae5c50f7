"""How fast do batches come from a mixture? `python -m benchmarks.mixture` prints one JSON line.

The peer is one source that holds the same documents, read in turn with the mixture of ten. The
target is 0.9 of its speed.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

from benchmarks import results
from lm.corpus import mixed_corpus, preparation
from lm.corpus.batches import Batches
from lm.corpus.sources import make_source

TARGET = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_sources", type=int, default=10)
    parser.add_argument("--seq_len", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_steps", type=int, default=1600)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ways = make_ways(pathlib.Path(name), args)
        seconds = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, batches in ways.items():  # In turn, so that a noisy minute hits both.
                start = time.perf_counter()
                for _ in batches.iterate(0, args.num_steps):
                    pass
                seconds[name].append(time.perf_counter() - start)
    tokens = args.num_steps * args.batch_size * args.seq_len
    speeds = {name: round(tokens / statistics.median(times)) for name, times in seconds.items()}
    results.emit(
        "mixture",
        device="cpu",
        packages=("array_record", "grain", "numpy", "tensorflow-datasets"),
        shape={
            name: getattr(args, name)
            for name in ("num_sources", "seq_len", "batch_size", "num_steps")
        },
        unit="tokens_per_second",
        ours=speeds["mixture"],
        peer="one source of the same documents",
        theirs=speeds["one"],
        ratio=round(speeds["mixture"] / speeds["one"], 3),
        target={"ratio": TARGET},
        note="",
        repeats=args.repeats,
    )


def make_ways(folder: pathlib.Path, args: argparse.Namespace) -> dict[str, Batches]:
    """The batches of a mixture of so many sources, weighed by their sizes, and of one source."""
    shared = dict(
        seq_len=args.seq_len,
        add_bos=True,
        add_eos=True,
        on_error="raise",
        tokenizer=dict(kind="bytes"),
        cache_dir=folder / "cache",
        num_processes=1,
    )
    place = dict(source="jsonl", validation=f"{folder}/0.jsonl", field="text")
    source = make_source("python_stdlib", split="train", spec="", field="")
    lines = [json.dumps({"text": document.text}) + "\n" for document in source.documents()]
    for i in range(args.num_sources):
        (folder / f"{i}.jsonl").write_text("".join(lines[i :: args.num_sources]))
    mixed = mixed_corpus.prepare(
        sources={
            f"s{i}": dict(place, train=f"{folder}/{i}.jsonl", weight=1.0, max_epochs=0.0)
            for i in range(args.num_sources)
        },
        mixture=dict(temperature=1.0, stages=()),
        **shared,
    )
    one = preparation.prepare(**place, train=f"{folder}/*.jsonl", **shared)
    sizes = dict(batch_size=args.batch_size, seed=0)
    mixture = mixed.mixture(args.num_steps, args.batch_size)
    return {
        "mixture": Batches(mixed, "train", **sizes, mixture=mixture),
        "one": Batches(one, "train", **sizes),
    }


if __name__ == "__main__":
    main()
