"""How fast is text prepared? `python -m benchmarks.preparation` prints one JSON line.

The peer is SentencePiece alone: as many processes, each of which has it encode its share of the
same texts in one batch. The target is 95 % of its speed, with everything counted that preparation
does: starting processes, reading, sending, packing, writing and checking.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import sentencepiece

from benchmarks import results
from lm.corpus.preparation import prepare
from lm.corpus.sources import make_source
from lm.tokenizers import training

TARGET = 0.95


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seq_len", type=int, default=1024)
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--algorithm", default="bpe")
    parser.add_argument("--num_processes", type=int, default=cores)
    parser.add_argument("--copies", type=int, default=2, help="of the standard library's text")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    source = make_source("python_stdlib", split="train", spec="", field="")
    texts = [document.text for document in source.documents()] * args.copies
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        training.train_sentencepiece(
            texts[:: args.copies],
            algorithm=args.algorithm,
            vocab_size=args.vocab_size,
            user_symbols=(),
        ).save(folder)
        for i, text in enumerate(texts):
            (folder / f"{i:05d}.txt").write_text(text)
        (folder / "validation").write_text("Nothing.")
        peer, ours = [], []
        for repeat in range(args.repeats):  # In turn, so that a noisy minute hits both.
            peer.append(tokenizer_alone(folder, texts, args.num_processes))
            ours.append(preparation(folder, repeat, args.seq_len, args.num_processes))
    results.emit(
        "preparation",
        device="cpu",
        packages=("array_record", "sentencepiece", "tensorflow-datasets"),
        shape={
            name: getattr(args, name)
            for name in ("seq_len", "vocab_size", "algorithm", "num_processes")
        }
        | {"megabytes": round(sum(map(len, texts)) / 1e6, 1)},
        unit="tokens_per_second",
        ours=round(statistics.median(ours)),
        peer="SentencePiece alone",
        theirs=round(statistics.median(peer)),
        ratio=round(statistics.median(a / b for a, b in zip(ours, peer, strict=True)), 3),
        target={"ratio": TARGET},
        note="",
        repeats=args.repeats,
    )


def preparation(folder: pathlib.Path, repeat: int, seq_len: int, num_processes: int) -> float:
    """Tokens a second of a whole preparation."""
    start = time.perf_counter()
    prepared = prepare(
        source="text",
        train=f"{folder}/*.txt",
        validation=f"{folder}/validation",
        field="",
        seq_len=seq_len,
        add_bos=False,
        add_eos=False,
        on_error="raise",
        tokenizer=dict(kind="file", path=str(folder / "sentencepiece.model")),
        cache_dir=folder / f"cache{repeat}",
        num_processes=num_processes,
    )
    return prepared.splits["train"].num_tokens / (time.perf_counter() - start)


def tokenizer_alone(folder: pathlib.Path, texts: list[str], num_processes: int) -> float:
    """Tokens a second of the slowest process, times their number; starting them is not counted."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        barrier = context.Manager().Barrier(num_processes)
        shares = [texts[i::num_processes] for i in range(num_processes)]
        futures = [pool.submit(_encode, folder, share, barrier) for share in shares]
        results = [future.result() for future in futures]
    return sum(tokens for tokens, _ in results) / max(seconds for _, seconds in results)


def _encode(folder: pathlib.Path, texts: list[str], barrier) -> tuple[int, float]:
    model = str(folder / "sentencepiece.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    barrier.wait()
    start = time.perf_counter()
    encoded = processor.encode(texts, num_threads=1)
    return sum(map(len, encoded)), time.perf_counter() - start


if __name__ == "__main__":
    main()
