"""From a case of `benchmarks.options` to commands of launch.py, their files, and what came out."""

import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

import launch
from benchmarks.options import OPTIONS, PRETRAINING, Case
from lm.loading.run_folder import tokenizer_block

_OBJECTIVES = {"whole words": "masked", "span": "span_corruption", "ul2": "ul2"}
_TASKS = {  # The recipe, its own arguments, the file of records, and other changes.
    "classes": ("classify", "", "texts", ()),
    "many labels": ("classify", "kind=multi", "texts", ("task.label=labels",)),
    "numbers": ("classify", "kind=regression", "texts", ("task.label=number",)),
    "tags": ("tag", "", "tagged", ()),
    "tags by a CRF": ("tag", "crf=true", "tagged", ()),
    "answers": ("answer", "", "answers", ("task.stride=16",)),
    "seq2seq": ("seq2seq", "task=translation", "pairs", ("task.target_len=8", "task.num_beams=1")),
    "seq2seq by beams": ("seq2seq", "", "pairs", ("task.target_len=8", "task.num_beams=2")),
    "chat": ("chat", "", "chats", ()),
}
_SIZES = dict(
    vocab_size=512, max_len=64, num_layers=2, num_heads=4, head_dim=4, model_dim=16, mlp_dim=32
)
_CHANGES = {  # What a value that is not the plain one changes.
    ("adapters", "lora"): ("lora.rank=2", "lora.targets=(query|value)/kernel"),
    ("adapters", "rank-stabilized"): (
        *("lora.rank=2", "lora.targets=kernel", "lora.rank_stabilized=true"),
    ),
    ("adapters", "dora"): ("lora.rank=2", "lora.targets=query/kernel", "lora.dora=true"),
    ("frozen", "embeddings"): ("train.frozen=embedding",),
    ("dropout", "0.1"): ("model.dropout=0.1",),
    ("mup", "base"): (
        *("model.mup_model_dim=8", "model.mup_num_heads=2"),
        *("model.mup_head_dim=4", "model.mup_mlp_dim=16"),
    ),
    ("accumulate", "2"): ("train.accumulate_steps=2",),
    ("loss blocks", "2"): ("loss.num_blocks=2",),
    ("ema", "0.9"): ("optimizer.ema_decay=0.9",),
    ("layer decay", "0.8"): ("optimizer.layer_decay=0.8",),
    ("clipping", "0"): ("optimizer.clip_norm=0.0",),
    ("best", "best"): ("checkpoint.best_metric=eval/loss", "checkpoint.best_mode=min"),
    ("best", "patience"): (
        *("checkpoint.best_metric=eval/loss", "checkpoint.best_mode=min", "train.patience=1"),
    ),
    ("samples", "4"): ("eval.sample_tokens=4",),
    ("seeds", "2"): ("num_seeds=2",),
}
_MESHES = {
    "data": (),
    "fsdp": ("parallel.fsdp=2",),
    "tensor": ("parallel.tensor=2",),
    "sequence": ("parallel.sequence=2",),
    "pmap": ("parallel.strategy=pmap",),
}
_TRAINED = ("bpe", "unigram")
_STOP_AT = "step      2  loss"


class Ended(NamedTuple):
    """How a command ended: its exit code, None for an exception; the last line of stderr."""

    code: int | None
    line: str


class _Stopping(io.TextIOBase):
    """Standard output that asks the run for an end behind its second step."""

    def __init__(self, asks: bool):
        self._asks, self.text = asks, io.StringIO()

    def write(self, text: str) -> int:
        if self._asks and _STOP_AT in text:
            self._asks = False
            os.kill(os.getpid(), signal.SIGTERM)
        return self.text.write(text)


def run(arguments: Sequence[str], *, stops: bool = False) -> tuple[Ended, str]:
    """Calls `launch.main` with these arguments; how it ended, and what it printed.

    Args:
      arguments: of launch.py.
      stops: sends itself SIGTERM when a second step is logged.
    """
    for name in list(flags.FLAGS):
        if name.startswith(("config.", "launcher.")):
            delattr(flags.FLAGS, name)
        elif name in ("config", "workdir"):
            flags.FLAGS[name].unparse()
    argv, sys.argv = sys.argv, ["launch.py", *arguments]
    stdout, stderr = _Stopping(stops), io.StringIO()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = launch.main(sys.argv)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [f for f in where if "site-packages" not in f.filename][-1]
        said = " ".join(str(error).split())[:300]
        place = f"{pathlib.Path(own.filename).name}:{own.lineno}"
        return Ended(None, f"{type(error).__name__} at {place}: {said}"), stdout.text.getvalue()
    finally:
        sys.argv = argv
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    lines = stderr.getvalue().splitlines()
    return Ended(code, lines[-1] if lines else ""), stdout.text.getvalue()


def training(case: Case, folder: pathlib.Path, *, num_devices: int) -> list[str]:
    """The arguments that train a case, but for --workdir.

    Args:
      case: see `benchmarks.options`.
      folder: where `write_files` has written, and `make_base` what the case starts from.
      num_devices: with 1 there is no mesh, but pmap is pmap.
    """
    work, is_new = case["work"], case["init_from"] == "none"
    base = _base(case, folder)
    given = [f"optimizer={case['optimizer']}", f"schedule={case['schedule']}"]
    changes = ["optimizer.peak_lr=1e-3", "log.every_steps=1", "train.num_steps=4"]
    changes += ["data.batch_size=16", "eval.batch_size=16", "checkpoint.every_steps=2"]
    changes += [f"eval.every_steps={case['evaluation']}"]
    if work in PRETRAINING:
        recipe, file = "families", None
        tokenizer = _tokenizer(case["tokenizer"], folder)
        if not is_new:
            tokenizer = tokenizer_block(base).get("path", "bytes")
        objective = _OBJECTIVES.get(work, work)
        given += [f"family={case['family']}", f"objective={objective}", f"tokenizer={tokenizer}"]
        given += ["debug"]
        changes += ["data.source=text", f"data.train={folder}/train.txt", "data.seq_len=64"]
        changes += [f"data.validation={folder}/validation.txt", "eval.sample_tokens=0"]
        changes += ["objective.whole_words=true"] if work == "whole words" else []
    else:
        recipe, own, file, more = _TASKS[work]
        given += [own] if own else []
        if is_new:
            tokenizer = _tokenizer(case["tokenizer"], folder)
            given += [f"model={case['family']}", f"tokenizer={tokenizer}", "debug"]
        changes += [f"data.train={folder}/{file}.jsonl", "data.validation_share=0.3", *more]
        changes += ["data.seq_len=64", "data.multiple=64", "data.truncate=true"]
        changes += ["checkpoint.best_metric="] if case["best"] == "none" else []
    if is_new or work in PRETRAINING:
        sizes = _SIZES | ({"num_kv_heads": 2} if case["family"] == "llama" else {})
        sizes = {k: v for k, v in sizes.items() if (k, case["family"]) != ("max_len", "t5")}
        changes += [f"model.{name}={size}" for name, size in sizes.items()]
        if is_new and tokenizer in _TRAINED:  # Those of pretraining have sentinels besides.
            changes += [f"tokenizer.vocab_size={448 if work in PRETRAINING else 320}"]
    if not is_new:
        changes += [f"init_from={base}"]
        changes += (
            ["model.dropout=0.0"] if work not in PRETRAINING and case["dropout"] == "0" else []
        )
    changes += [f"model.{key}={case[key]}" for key in ("attention", "dtype", "matmul", "remat")]
    changes += [f"model.scan_layers={case['scan']}"]
    if case["smoothing"] != "0":
        changes += [f"{'loss' if work in PRETRAINING else 'task'}.label_smoothing=0.1"]
    for item in case.items():
        changes += _CHANGES.get(item, ())
    changes += _mesh(case, num_devices)
    config = f"--config=configs/{recipe}.py:{','.join(given)}"
    return [config, *(f"--config.{change}" for change in changes)]


def train(case: Case, folder: pathlib.Path, name: str, *, num_devices: int) -> dict[str, Any]:
    """Trains a case and does what follows; how each command ended, and the numbers.

    Args:
      case, folder, num_devices: see `training`.
      name: of the folder of the run.

    Returns:
      "ended": of each command, "numbers": by step and name, "written": whether there is a folder.
    """
    workdir = folder / f"{name}-on-{num_devices}"
    shutil.rmtree(workdir, ignore_errors=True)
    ended = [make_base(case, folder)]
    command = [*training(case, folder, num_devices=num_devices), f"--workdir={workdir}"]
    resumes = case["then"] == "resume"
    if ended[-1].code == 0:
        ended.append(run(command, stops=resumes)[0])
    if resumes and ended[-1].code == 75:
        ended[-1] = run(command)[0]
    numbers = _numbers(workdir)
    run_folder = workdir / "seed-0" if case["seeds"] == "2" else workdir
    mesh = _mesh(case, num_devices)
    commands = {
        "evaluate": ("evaluate", [f"checkpoint={run_folder}"]),
        "generate": (
            "generate",
            [
                *(f"checkpoint={run_folder}", "prompt=the model", "max_new_tokens=4"),
                "temperature=0.0",
            ],
        ),
        "export": ("convert", [f"source={run_folder}", f"target={run_folder}-exported"]),
    }
    if ended[-1].code == 0 and case["then"] in commands:
        recipe, changes = commands[case["then"]]
        changes = [*changes, *(mesh if recipe != "convert" else ())]
        shutil.rmtree(f"{run_folder}-exported", ignore_errors=True)
        end, text = run(
            [f"--config=configs/{recipe}.py", *(f"--config.{change}" for change in changes)]
        )
        ended.append(end)
        if recipe == "evaluate":
            loss = [line.split()[1] for line in text.splitlines() if "eval/loss" in line]
            numbers |= {"evaluated": float(loss[0])} if loss else {}
    return {
        "ended": [end._asdict() for end in ended[1:] or ended],
        "numbers": numbers,
        "written": workdir.exists(),
    }


def _mesh(case: Case, num_devices: int) -> tuple[str, ...]:
    """How a case uses its devices; of one, only pmap is a way."""
    return _MESHES[case["mesh"]] if num_devices > 1 or case["mesh"] == "pmap" else ()


def _numbers(workdir: pathlib.Path) -> dict[str, float]:
    found = {}
    for path in sorted(workdir.glob("**/metrics.jsonl")):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            for name in ("train/loss", "train/grad_norm", "eval/loss"):
                if name in values:
                    found[f"{path.parent.name[:5]} {values['step']} {name}"] = values[name]
    return {key.replace(workdir.name[:5], "run", 1): x for key, x in found.items()}


# What cases start from -------------------------------------------------------------------------


def _base(case: Case, folder: pathlib.Path) -> pathlib.Path:
    name = f"base-{case['family']}-{case['tokenizer']}"
    return folder / (name if case["init_from"] == "run" else f"{name}-transformers")


def make_base(case: Case, folder: pathlib.Path) -> Ended:
    """Trains, and writes as `transformers` has it, what a case starts from, unless it is there."""
    if case["init_from"] == "none" or _base(case, folder).exists():
        return Ended(0, "")
    plain = {name: values[0] for name, values in OPTIONS.items()}
    # Bytes have no sentinels, which spans of T5 need.
    first = {"gpt2": "causal", "llama": "causal", "bert": "masked", "t5": "prefix"}
    plain |= {
        "work": first[case["family"]],
        "family": case["family"],
        "tokenizer": case["tokenizer"],
    }
    run_folder = _base(case | {"init_from": "run"}, folder)
    if not run_folder.exists():
        begun = run_folder.with_name(f"{run_folder.name}-begun")  # Whose end is not known.
        shutil.rmtree(begun, ignore_errors=True)
        command = training(plain, folder, num_devices=1)
        end, _ = run([*command, f"--workdir={begun}", "--config.train.num_steps=1"])
        if end.code != 0:
            return end
        begun.rename(run_folder)
    if case["init_from"] == "run":
        return Ended(0, "")
    return run(
        [
            "--config=configs/convert.py",
            f"--config.source={run_folder}",
            f"--config.target={run_folder}-transformers",
        ]
    )[0]


def _tokenizer(kind: str, folder: pathlib.Path) -> str:
    return str(folder / "tokenizer.json") if kind == "file" else kind


def write_files(folder: pathlib.Path) -> None:
    """Texts, records of each task, and a tokenizer of Hugging Face's, always the same."""
    import tokenizers

    rng = random.Random(0)
    syllables = [a + b for a in "bdfklmnprst" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(200)]
    sentence = lambda: " ".join(rng.choices(words, k=rng.randint(3, 12)))
    for name, count in (("train", 400), ("validation", 60)):
        text = "\n".join(f"{sentence().capitalize()}." for _ in range(count))
        (folder / f"{name}.txt").write_text(text)
    kinds = ("good", "bad")
    context = "The house is red and the door is blue."
    records = {
        "texts": [
            {
                "text": f"{kind} {sentence()}",
                "label": kind,
                "labels": [kind] * (i % 3 > 0),
                "number": i / 10,
            }
            for i, kind in enumerate(kinds * 24)
        ],
        "tagged": [
            {
                "tokens": ["Anna", "reads", word, words[-i], "in", "Oslo"],
                "tags": ["B-PER", "O", "O", "O", "O", "B-LOC"],
            }
            for i, word in enumerate(words[:48])
        ],
        "answers": [
            {
                "id": str(i),
                "question": f"{word} or {words[-i]}?",
                "context": context * (1 + i % 2),
                "answers": [{"text": "red", "answer_start": context.index("red")}],
            }
            for i, word in enumerate(words[:48])
        ],
        "pairs": [{"source": f"{sentence()} {w}", "target": w} for i, w in enumerate(words[:48])],
        "chats": [
            {
                "messages": [
                    {"role": "user", "content": f"{w} or {words[-i]}?"},
                    {"role": "assistant", "content": "yes"},
                ]
            }
            for i, w in enumerate(words[:48])
        ],
    }
    for name, rows in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<mask>", *(f"<extra_id_{i}>" for i in range(100))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(folder / "train.txt")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
