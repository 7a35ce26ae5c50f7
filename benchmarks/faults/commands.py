"""The commands that are disturbed, on tiny models, and what they leave, in a form to compare."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import quick_compilation
from lm.system import supervisor

ROOT = pathlib.Path(__file__).parent.parent.parent
_FEW_LINES = 60
# What depends on the clock, or says how often a run was started.
_TIMED = ("tokens_per_second", "mfu", "seconds", "data_wait", "compile", "memory", "run/")
_LAST_SECONDS = 1200  # No command here takes so long.


class Done(NamedTuple):
    """How a command ended. seconds: from its start. errors: what it wrote to stderr."""

    code: int
    seconds: float
    errors: str


class Place:
    """A folder with texts, labelled records and a cache, in which commands run.

    Args:
      folder: empty.
      num_steps: of training.
    """

    def __init__(self, folder: pathlib.Path, num_steps: int):
        self.folder, self._num_steps = folder, num_steps
        sources = sorted((ROOT / "lm").rglob("*.py"))[:_FEW_LINES]
        for i, source in enumerate(sources):
            kind = "validation" if i % 10 == 0 else "train"
            path = folder / "texts" / f"{i}.{kind}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source.read_text()[:3000])
        records = [
            {"text": f"{word} number {i}", "label": "good" if word == "fine" else "bad"}
            for i in range(60)
            for word in ("fine", "poor")
        ]
        for kind, part in (("train", records[:100]), ("validation", records[100:])):
            lines = "".join(json.dumps(record) + "\n" for record in part)
            (folder / f"{kind}.jsonl").write_text(lines)
        (folder / "sweep.py").write_text("def sweep():\n    return [{'seed': 0}, {'seed': 1}]\n")
        self._tiny = [
            "--config=configs/quickstart.py:debug",
            "--config.tokenizer.vocab_size=512",
            "--config.model.vocab_size=512",
            "--config.model.dropout=0.1",
            "--config.data.source=text",
            f"--config.data.train={folder}/texts/*.train.txt",
            f"--config.data.validation={folder}/texts/*.validation.txt",
            f"--config.train.num_steps={num_steps}",
            f"--config.eval.every_steps={max(num_steps // 4, 1)}",
            f"--config.checkpoint.every_steps={max(num_steps // 20, 1)}",
            "--config.checkpoint.keep_last=3",
        ]

    def pretraining(self, workdir: pathlib.Path, *more: str) -> list[str]:
        """Of a GPT-2 of two layers."""
        return [*self._tiny, *more, f"--workdir={workdir}"]

    def fine_tuning(self, workdir: pathlib.Path) -> list[str]:
        """A classifier, which keeps its best checkpoint too."""
        return [
            "--config=configs/classify.py:debug,tokenizer=bytes",
            f"--config.data.train={self.folder}/train.jsonl",
            f"--config.data.validation={self.folder}/validation.jsonl",
            f"--config.train.num_steps={self._num_steps}",
            "--config.log.every_steps=1",
            "--config.eval.every_steps=4",
            "--config.checkpoint.every_steps=4",
            f"--workdir={workdir}",
        ]

    def sweep(self, folder: pathlib.Path) -> list[str]:
        """Two runs of pretraining, one after the other."""
        return [
            *self._tiny,
            f"--sweep={self.folder}/sweep.py",
            "--launcher=local",
            "--launcher.num_parallel=1",
            f"--workdir={folder}",
        ]

    def preparation(self) -> list[str]:
        """Of the text of pretraining, which a look at a batch needs."""
        return [*self._tiny, "--show_batch=1"]

    def conversion(self, source: pathlib.Path, target: pathlib.Path) -> list[str]:
        """Between a run and a folder of transformers, in either direction."""
        names = (f"--config.source={source}", f"--config.target={target}")
        return ["--config=configs/convert.py", *names]

    def predictions(self, run: pathlib.Path, output: pathlib.Path) -> list[str]:
        """Of a fine-tuned run, for what it was trained on."""
        names = (f"--config.checkpoint={run}", f"--config.output={output}")
        return [
            "--config=configs/predict.py",
            *names,
            f"--config.input={self.folder}/train.jsonl",
        ]

    def generation(self, run: pathlib.Path, output: pathlib.Path) -> list[str]:
        """A few tokens of a pretrained run."""
        names = (f"--config.checkpoint={run}", f"--config.output={output}")
        few = ("--config.prompt=def ", "--config.max_new_tokens=3")
        return ["--config=configs/generate.py", *names, *few]

    def start(self, arguments: Sequence[str], cache: str = "cache") -> subprocess.Popen:
        """Starts a command with a cache of this name, in a process group of its own."""
        environment = os.environ | {
            "LM_CACHE": str(self.folder / cache),
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": quick_compilation.FLAGS,
        }
        command = [sys.executable, "launch.py", *arguments]
        return subprocess.Popen(
            supervisor.dying_with_this(command, ()),  # For ctrl-C does not reach its group.
            cwd=ROOT,
            process_group=0,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str], cache: str = "cache") -> Done:
        """Runs a command to its end."""
        start = time.monotonic()
        process = self.start(arguments, cache)
        errors = process.communicate(timeout=_LAST_SECONDS)[1]
        return Done(process.returncode, time.monotonic() - start, errors)

    def must(self, arguments: Sequence[str], cache: str = "cache") -> Done:
        """Runs a command that has no reason to fail."""
        done = self.run(arguments, cache)
        if done.code:
            raise RuntimeError(f"{arguments} ended with {done.code}: {done.errors[-2000:]}")
        return done


def lives(place: Place) -> list[int]:
    """The processes that commands in a place have started, whoever their parents are by now."""
    found, variable = [], f"LM_CACHE={place.folder}/".encode()
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:
            continue  # It ended meanwhile, or is of someone else.
        if any(one.startswith(variable) for one in variables):
            found.append(int(path.parent.name))
    return found


def outcome_of_run(workdir: pathlib.Path) -> dict[str, Any]:
    """All that a run came to: what it logged, the arrays of its last checkpoint, its results."""
    files = ("result.json", "predictions.jsonl")
    return {
        "logged": logged(workdir),
        "arrays": arrays(workdir),
        **{name: digest(workdir / name) for name in files if (workdir / name).exists()},
    }


def outcome_of_sweep(folder: pathlib.Path) -> dict[str, Any]:
    """Those of its runs, by name."""
    runs = sorted(path.parent for path in folder.glob("*/metrics.jsonl"))
    return {run.name: outcome_of_run(run) for run in runs}


def outcome_of_folder(folder: pathlib.Path) -> dict[str, str]:
    """Checksums of all files that hold data, by name."""
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name not in _TELL_TIME
    }


_TELL_TIME = ("provenance.json", "dataset_info.json", "manifest.json", ".lock")


def logged(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Each record of metrics.jsonl, without what depends on the clock."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    kept = [
        {name: value for name, value in record.items() if not any(t in name for t in _TIMED)}
        for record in records
    ]
    return [record for record in kept if len(record) > 1]


def arrays(workdir: pathlib.Path) -> dict[str, str]:
    """Checksums of the arrays of the newest checkpoint, by name."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    steps = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    newest = max(steps, key=lambda path: int(path.name))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(newest / "state")
    return {"step": newest.name} | {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
        if getattr(x, "size", 0)
    }


def digest(path: pathlib.Path) -> str:
    """Its SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
