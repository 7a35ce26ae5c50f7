"""How fast do batches come from disk? `python -m benchmarks.loader` prints one JSON line.

The target is 4 million tokens a second on two cores, in rows of 1,024 tokens; the peer is the same
records read from ArrayRecord in the same run and thrown away.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

from benchmarks import results
from lm.corpus.batches import Batches
from lm.corpus.preparation import prepare

TARGET = 4e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seq_len", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(
            source="python_stdlib",
            train="",
            validation="",
            field="",
            seq_len=args.seq_len,
            add_bos=True,
            add_eos=True,
            on_error="raise",
            tokenizer=dict(kind="bytes"),
            cache_dir=folder,
            num_processes=1,
        )
        batches = Batches(prepared, "train", batch_size=args.batch_size, seed=0)
        ways = {
            "prefetched": lambda: batches.iterate(0, args.num_steps),
            "one_by_one": lambda: map(batches.batch_at, range(args.num_steps)),
            "records_alone": lambda: (
                batches.reader.records(batches.rows_at(step)) for step in range(args.num_steps)
            ),
        }
        seconds = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, way in ways.items():  # In turn, so that a noisy minute hits all of them.
                seconds[name].append(_time(way))
    tokens = args.num_steps * args.batch_size * args.seq_len
    speeds = {name: round(tokens / statistics.median(times)) for name, times in seconds.items()}
    results.emit(
        "loader",
        device="cpu",
        packages=("array_record", "grain", "numpy", "tensorflow-datasets"),
        shape={name: getattr(args, name) for name in ("seq_len", "batch_size", "num_steps")},
        unit="tokens_per_second",
        ours=speeds["prefetched"],
        peer="the same records, read and thrown away",
        theirs=speeds["records_alone"],
        ratio=round(speeds["prefetched"] / speeds["records_alone"], 3),
        target={"tokens_per_second": TARGET},
        note="",
        one_by_one=speeds["one_by_one"],
        repeats=args.repeats,
    )


def _time(way: Callable) -> float:
    start = time.perf_counter()
    for _ in way():
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
