"""How fast are texts of all lengths labelled? `python -m benchmarks.pipeline` prints a JSON line.

A BERT-base classifier with random weights reads texts of 5 to 200 words, as `configs/predict.py`
has it, beside the pipeline of `transformers` with batches of 16, which takes them as they come.
Both sides read the same folder and take turns.
"""

import argparse
import functools
import hashlib
import os
import pathlib
import random
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import finetuning_cases, results
from benchmarks import sides as sides_lib
from benchmarks.sides import Side
from lm.system import allocator

TARGET = {"ratio": 3.0}
BATCH_SIZE = 16
_NUM_WORDS = (5, 200)
_LABELS = ("long", "short")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_texts", type=int, default=256)
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="kept; a temporary one unless given")
    parser.add_argument("--side", help="set for the processes that this one starts")
    args = parser.parse_args()
    if args.side:
        makers = {"ours": _ours, "peer": _peer}
        return sides_lib.serve(*makers[args.side](args), sides_lib.process_peak_bytes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary)
        if not (folder / "classifier").exists():
            _make(folder / "classifier", args.num_layers)
        flags = [f"--folder={folder}"]
        starts = {
            name: functools.partial(Side, __spec__.name, name, flags) for name in ("ours", "peer")
        }
        (found,) = sides_lib.compare(starts, [args.num_texts], args.rounds, together=True)
    ours, peer = found["ours"], found["peer"]
    results.emit(
        "pipeline",
        device="cpu",
        packages=("jax", "torch", "transformers"),
        shape={"num_texts": args.num_texts, "num_layers": args.num_layers},
        unit="seconds",
        ours=results.rounded(statistics.median(ours.seconds)),
        peer=f"transformers pipeline, batch_size={BATCH_SIZE}",
        theirs=results.rounded(statistics.median(peer.seconds)),
        ratio=sides_lib.ratio(ours, peer),
        target=TARGET if args.num_layers == 12 else {},
        note=f"texts of {_NUM_WORDS[0]} to {_NUM_WORDS[1]} words",
        same_labels=ours.said == peer.said,
        rounds=args.rounds,
        **sides_lib.processor_seconds_of(ours, peer, 1),
        **sides_lib.memory_of(ours, peer),
    )


def _make(folder: pathlib.Path, num_layers: int) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=finetuning_cases.VOCAB_SIZE,
        num_hidden_layers=num_layers,
        id2label=dict(enumerate(_LABELS)),
        initializer_range=0.1,  # So that labels differ.
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    words = list(finetuning_cases.words_of_code())
    finetuning_cases.make_tokenizer(words, is_encoder=True).save_pretrained(folder)


@functools.cache
def _texts(num: int) -> list[str]:
    rng, words = random.Random(0), list(finetuning_cases.words_of_code())
    texts = []
    for _ in range(num):
        length = rng.randint(*_NUM_WORDS)
        first = rng.randrange(len(words) - length)
        texts.append(" ".join(words[first : first + length]))
    return texts


def _digest(labels: list[str]) -> str:
    return hashlib.sha256(" ".join(labels).encode()).hexdigest()


def _ours(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[int], str]]:
    from lm.data.records import Record
    from lm.inference import predicting
    from lm.loading import task_model
    from lm.parallel.mesh import make_mesh

    mesh = make_mesh(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)
    run = task_model.load(args.folder / "classifier")
    # Replies are those of other tasks.
    predictor = predicting.make_predictor(run, mesh, batch_size=BATCH_SIZE, replies=None)

    def call(num_texts: int) -> str:
        records = [Record(f"text {i}", {"text": x}) for i, x in enumerate(_texts(num_texts))]
        return _digest([each.prediction["label"] for each in predictor(records)])

    return {}, call


def _peer(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[int], str]]:
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pipeline = transformers.pipeline(
        "text-classification", model=str(args.folder / "classifier"), device="cpu"
    )

    def call(num_texts: int) -> str:
        found = pipeline(_texts(num_texts), batch_size=BATCH_SIZE, truncation=True)
        return _digest([each["label"] for each in found])

    return {}, call


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
