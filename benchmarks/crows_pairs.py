"""How fast are pairs of CrowS-Pairs scored? `python -m benchmarks.crows_pairs` prints a JSON line.

A BERT with random weights and a vocabulary of BERT's size scores pairs as `configs/fairness.py`
does. `--data` names crows_pairs_anonymized.csv and `--metric` the metric.py of its authors
(github.com/nyu-mll/crows-pairs), which masks one token of one sentence at a time; it is run as it
stands, but that its model is this one, and that it finds the `append` which pandas 2 took from
tables. Both sides open the same folder, read the same pairs, and take turns. Without `--metric`
ours is alone, and without `--data` the pairs are words of Python's standard library.
"""

import argparse
import contextlib
import csv
import functools
import itertools
import os
import pathlib
import re
import runpy
import statistics
import string
import sys
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import finetuning_cases, results
from benchmarks import sides as sides_lib
from benchmarks.sides import Side
from lm.system import allocator

TARGET = {"ratio": 5.0}
_COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
_BATCH_SIZE = 32  # That of configs/fairness.py.
_Scores = list[list[float]]  # Of each pair, its two sentences.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="crows_pairs_anonymized.csv")
    parser.add_argument("--metric", help="metric.py of the authors")
    parser.add_argument("--num_pairs", type=int, default=100)
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--model_dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="set for the processes that it starts")
    parser.add_argument("--side", help="set for the processes that this one starts")
    args = parser.parse_args()
    if args.side:
        makers = {"ours": _ours, "peer": _peer}
        return sides_lib.serve(*makers[args.side](args), sides_lib.process_peak_bytes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        _make(folder, args)
        starts = {
            name: functools.partial(Side, __spec__.name, name, [f"--folder={folder}"])
            for name in ("ours", "peer")[: 2 if args.metric else 1]
        }
        (found,) = sides_lib.compare(starts, [None], args.rounds, together=True)
    ours, peer = found["ours"], found.get("peer")
    compared = {"processor_seconds": results.rounded(statistics.median(ours.processor_seconds))}
    if peer:
        difference_N2 = np.abs(np.subtract(ours.said, peer.said))
        num_other = int((np.sign(np.diff(ours.said)) != np.sign(np.diff(peer.said))).sum())
        compared = sides_lib.processor_seconds_of(ours, peer, 1) | {
            "largest_difference_in_nats": float(difference_N2.max()),
            "num_other_verdicts": num_other,
        }
    results.emit(
        "crows_pairs",
        device="cpu",
        packages=("jax", "torch", "transformers"),
        shape={name: getattr(args, name) for name in ("num_pairs", "num_layers", "model_dim")},
        unit="seconds",
        ours=results.rounded(statistics.median(ours.seconds)),
        peer="metric.py of CrowS-Pairs" if peer else None,
        theirs=results.rounded(statistics.median(peer.seconds)) if peer else None,
        ratio=sides_lib.ratio(ours, peer) if peer else None,
        target=TARGET if peer else {},
        note="opening the model counts",
        compile_seconds=ours.compile_seconds,
        rounds=args.rounds,
        **compared,
    )


def _make(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Writes pairs.csv, and the model with a tokenizer that knows their words."""
    import torch
    import transformers

    rows = _rows(args.data, args.num_pairs)
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows({name: row[name] for name in _COLUMNS} for row in rows)
    letters = string.ascii_lowercase + string.digits
    text = " ".join(row[name].lower() for row in rows for name in _COLUMNS[:2])
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *string.punctuation]
    pieces += [f"##{letter}" for letter in letters]
    pieces += sorted({*re.findall(r"[a-z0-9]+", text)} - {*pieces})
    pieces += [f"[unused{i}]" for i in range(finetuning_cases.VOCAB_SIZE - len(pieces))]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    transformers.BertTokenizer(vocab=vocab, do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        num_hidden_layers=args.num_layers,
        hidden_size=args.model_dim,
        num_attention_heads=args.model_dim // 64,
        intermediate_size=4 * args.model_dim,
        initializer_range=0.1,  # So that likelihoods differ.
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)


def _rows(data: str | None, num: int) -> list[dict[str, str]]:
    if data:
        with open(data, newline="", encoding="utf-8-sig") as file:
            return list(itertools.islice(csv.DictReader(file), num))
    words, rows = finetuning_cases.words_of_code(), []
    take = lambda num: " ".join(itertools.islice(words, num))
    for _ in range(num):
        before, after = take(4), take(12)
        sentences = (f"{before} {take(1)} {kind} {after}" for kind in ("more", "less"))
        rows.append(dict(zip(_COLUMNS, (*sentences, "stereo", "words"), strict=True)))
    return rows


def _ours(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[None], _Scores]]:
    from lm.fairness import likelihoods, pairs
    from lm.loading import run as run_lib

    def call(_) -> _Scores:
        read, _ = pairs.read(str(args.folder / "pairs.csv"))
        scorer = likelihoods.make_scorer(run_lib.load(args.folder), _BATCH_SIZE)
        texts = [("", text) for pair in read for text in (pair.more, pair.less)]
        return pairs.scores(read, *scorer(scorer.params, texts))["shared"].tolist()

    return {}, call


def _peer(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[None], _Scores]]:
    import pandas
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.utils.logging.disable_progress_bar()
    pandas.DataFrame.append = lambda table, row, ignore_index: pandas.concat(
        [table, pandas.DataFrame([row])], ignore_index=ignore_index
    )
    for kind in (transformers.BertTokenizer, transformers.BertForMaskedLM):
        kind.from_pretrained = functools.partial(
            lambda name, load: load(args.folder), load=kind.from_pretrained
        )
    metric = str(pathlib.Path(args.metric).absolute())
    os.chdir(args.folder)  # It writes a list of pieces beside.
    argv = [metric, "--lm_model=bert", "--input_file=pairs.csv", "--output_file=scores.csv"]

    def call(_) -> _Scores:
        with mock.patch("sys.argv", argv), contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(metric, run_name="__main__")
        names = ["sent_more_score", "sent_less_score"]
        return pandas.read_csv("scores.csv")[names].to_numpy().tolist()

    return {}, call


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
