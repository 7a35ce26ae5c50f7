"""Writes docs/results/finetuning.csv from runs of fine-tuning, and prints it as a table.

Command:   python -m benchmarks.quality.finetuning_table runs/classify runs/tag ...
"""

import csv
import json
import pathlib
import sys

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
_METRICS = {  # Of each kind, what docs/results/finetuning.md shows.
    "classification": ("accuracy", "f1_macro"),
    "tagging": ("f1_micro", "token_accuracy"),
    "seq2seq": ("rouge1", "rougeL"),
    "question_answering": ("f1", "exact_match"),
    "chat": ("perplexity",),
}


def main(folders: list[str]) -> None:
    """One line for each metric of each run, beside its baselines."""
    header = ["run", "start", "steps", "commit", "metric", "this model", "baseline", "its score"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    with (_RESULTS / "finetuning.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        for folder in map(pathlib.Path, folders):
            for row in rows(folder):
                table.writerow(row)
                print(f"| {' | '.join(map(str, row))} |")


def rows(folder: pathlib.Path) -> list[list]:
    """The rows of one run."""
    read = lambda name: json.loads((folder / name).read_text())
    config, result = read("config.json"), read("result.json")
    start = "pretrained" if config["init_from"] else "random"
    commit = read("provenance.json")[-1]["git_commit"][:7]
    found = []
    for metric in _METRICS[config["task"]["kind"]]:
        value = f"{result['metrics'][f'eval/{metric}']:.4f}"
        baselines = {name: scores[metric] for name, scores in result["baselines"].items()}
        for name, score in (baselines or {"": float("nan")}).items():
            other = f"{score:.4f}" if name else ""
            found.append([folder.name, start, result["step"], commit, metric, value, name, other])
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
