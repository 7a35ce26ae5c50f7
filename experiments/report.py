"""Prints what a run says for itself: once at its start, once at its end."""

import itertools
import json
import lzma
import math
import os
import pathlib
import re
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import rich
import rich.table

from experiments.cli import command, config_text
from experiments.wiring import pretraining, task_data
from lm.chat import chat_template
from lm.corpus import source_weights
from lm.corpus.batches import Corpus
from lm.corpus.mixed_corpus import MixedCorpus
from lm.corpus.mixture import Mixture
from lm.corpus.sources import make_source, readable
from lm.costs import memory
from lm.data.records import Record
from lm.formats.files import RestUnread
from lm.metrics.seed_average import Estimate
from lm.models.factory import family_named, resolved
from lm.models.parameters import Params, num_params
from lm.system import atomic_files, faults, safe_text
from lm.tasks.task import Task
from lm.train import schedules
from lm.train.optimizers import decays
from lm.train.step import TrainState


def start(
    config: ml_collections.ConfigDict,
    parts: pretraining.PretrainingParts,
    prepared: Corpus,
    abstract: TrainState,
    workdir: pathlib.Path,
) -> None:
    """Prints the config, and what follows from it."""
    split = prepared.splits["train"]
    tokens = config.data.batch_size * config.data.seq_len
    rows = pretraining.rows_of(config.objective.kind, config.parallel.sequence)
    lines = {
        "data": f"{split.num_tokens:,} tokens of {split.num_documents:,} documents in "
        f"{split.num_rows:,} rows, {split.num_bytes / max(split.num_tokens, 1):.2f} bytes a token",
        "tokens a step": f"{tokens:,}, {config.train.num_steps:,} steps, "
        f"{config.train.num_steps * config.data.batch_size / split.num_rows:.2f} epochs",
        "mesh": f"{dict(parts.mesh.shape)} of {jax.devices()[0].device_kind}",
        "memory": f"{memory.tree_bytes(abstract) / 1e6:,.0f} MB of state on each device, besides "
        "activations",
        "workdir": str(workdir),
    }
    _print_start(config, f"{num_params(abstract.params):,}", abstract.params, rows, lines)
    warn(prepared.notes())


def mixture(prepared: MixedCorpus, order: Mixture) -> None:
    """Prints what a run sees of each source, and warns of those of which it sees nothing."""
    table = rich.table.Table("source", *_OF_SOURCES, title="mixture", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    totals = order.counts(order.num_examples)
    for i, (name, drawn) in enumerate(zip(order.names, totals.tolist(), strict=True)):
        info = prepared.corpora[name].splits["train"]
        shares = [stage.counts[i] / stage.num_examples for stage in order.stages]
        weight = " -> ".join(f"{share:.3g}" for share in shares)
        numbers = f"{info.num_rows:,}", f"{info.num_tokens:,}", weight, f"{drawn:,}"
        table.add_row(name, *numbers, f"{drawn / info.num_rows:.4g}")
    rich.print(table)
    if never := source_weights.never_drawn(order):
        warn([f"of {', '.join(never)} nothing is drawn, for so small is the weight"])


_OF_SOURCES = ("rows", "tokens", "weight", "rows drawn", "epochs")


def eval_corpora(corpora: Mapping[str, Corpus]) -> None:
    """Prints what each corpus that a run is evaluated on holds, and what one must know of it."""
    for name, prepared in corpora.items():
        split = prepared.splits["validation"]
        print(
            f"evaluated on {name}: {split.num_tokens:,} tokens of {split.num_documents:,} "
            f"documents, {split.num_bytes / max(split.num_tokens, 1):.2f} bytes a token"
        )
        warn([f"eval.corpora.{name}: {line}" for line in prepared.notes()])


def warn(lines: Sequence[str]) -> None:
    """Prints what people must know before they believe the numbers of a run."""
    for line in lines:
        print(f"warning: {line}", flush=True)


def compute_line(model: ml_collections.ConfigDict, **rows) -> str:
    """Says how a model computes: types, kernel, and why the kernel is none of the fast ones.

    As "bfloat16, attention by einsum (not cudnn: it has no dropout and model.dropout=0.1)". `rows`
    is what the rows ask of attention; see `factory.make_model`.
    """
    model_config, choice = resolved(model, **rows)
    reason = f" ({choice.reason})" if choice.reason else ""
    line = f"{model_config.dtype}, attention by {choice.kernel}{reason}"
    if model_config.matmul == "plain":
        return line
    # XLA widens 8-bit operands on CPUs.
    slow = ", simulated: no faster" if jax.default_backend() == "cpu" else ""
    return f"{line}, products of layers in fp8{slow}"


def _print_start(
    config: ml_collections.ConfigDict,
    parameters: str,
    params: Params,
    rows: dict[str, Any],
    more: dict[str, str],
) -> None:
    """Prints the config, and lines about what is trained and how; `more` are others, by name."""
    print(safe_text.shown(config_text(config)))
    lines = {
        "parameters": parameters,
        "weight decay": _decay_line(config.optimizer.weight_decay, params),
        "warmup": _warmup_line(config.optimizer, config.train.num_steps),
        "compute": compute_line(config.model, **rows),
    }
    for name, text in (lines | more).items():
        line = f"{name:>14}: {safe_text.shown(text)}"
        # Paths and commands stay in one piece, to be copied.
        print(textwrap.fill(line, 100, subsequent_indent=" " * 16, break_long_words=False))
    print(flush=True)


def _decay_line(weight_decay: float, params: Params) -> str:
    by_decay = {True: [], False: []}
    # By the very function that the optimiser asks, so that the line cannot be wrong.
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        by_decay[decays(path)].append(name)
    line = f"{weight_decay} on {', '.join(by_decay[True]) or 'nothing'}"
    names = by_decay[False]
    return f"{line}; none on the other {len(names)}: {', '.join(names)}" if names else line


def _warmup_line(optimizer: ml_collections.ConfigDict, num_steps: int) -> str:
    steps, share = optimizer.warmup_steps, optimizer.warmup_share
    of_warmup = schedules.warmup_of(num_steps, warmup_steps=steps, warmup_share=share)
    line = f"{of_warmup:,} of {num_steps:,} steps"
    asked = steps or round(share * num_steps)
    return line if asked == of_warmup else f"{line}, a tenth of them, where {asked:,} do not fit"


def start_fine_tuning(
    config: ml_collections.ConfigDict,
    data: task_data.TaskData,
    abstract: TrainState,
    frozen: Params,
    initial: list[str],
    workdir: pathlib.Path,
) -> None:
    """Prints the config, and what follows from it."""
    num_examples, num_steps = len(data.train.examples), config.train.num_steps
    size_of = lambda tree: faults.in_bytes(memory.tree_bytes(tree))
    rows = dict(causal=True, packed=False, sequence_parts=config.parallel.sequence)
    counts = [
        f"{num_examples:,} examples",
        f"{len(data.validation.records):,} to validate with",
        *(f"{count:,} {what}" for what, count in data.task.notes.items()),
        f"{sum(not isinstance(e, RestUnread) for e in data.skipped):,} left out",
    ]
    lines = {
        "data": ", ".join(counts),
        "steps": f"{num_steps:,} of {config.data.batch_size:,} examples, "
        f"{num_steps * config.data.batch_size / num_examples:.2f} epochs",
        "memory": f"{size_of(abstract.params)} trained, {size_of(frozen)} frozen, "
        f"{size_of(abstract.opt_state)} of optimiser state",
        "workdir": str(workdir),
    }
    lines |= data.lines | dict(line.split(": ", 1) for line in initial)
    parameters = f"{num_params(abstract.params):,} trained, {num_params(frozen):,} frozen"
    _print_start(config, parameters, abstract.params, rows, lines)
    for error in [e for e in data.skipped if not isinstance(e, RestUnread)][:5]:
        print(safe_text.one_line(f"left out: {error}"))
    warn([*data.warnings, *border_warnings(data.task.notes, num_examples)])


def border_warnings(notes: Mapping[str, int], num_examples: int) -> list[str]:
    """Warns where answers begin inside of a token, as behind a prompt that ends in a space."""
    count = notes.get(chat_template.SPLIT, 0)
    if count * 2 < num_examples:  # An odd answer is no fault of the template.
        return []
    return [
        f"{count:,} {chat_template.SPLIT}: a prompt ends before such a token, and a reply that is "
        "asked for there may lose its beginning; have the template end what asks for an answer "
        "with a line break or a special token, not with a space"
    ]


def fine_tuned(
    workdir: pathlib.Path,
    data: task_data.TaskData,
    step: int,
    metrics: dict[str, float],
    predictions: list[Any],
) -> None:
    """Writes predictions and metrics, and prints these beside what takes no model."""
    records = data.validation.records
    write_predictions(workdir / "predictions.jsonl", data.task, records, predictions)
    for name, picture in data.task.pictures(records, predictions).items():
        atomic_files.write(workdir / name, picture)
    baselines = {
        name: data.task.score(records, guesses)
        for name, guesses in data.task.baselines(data.train.records, records).items()
    }
    by_label = data.task.by_label(records, predictions)
    result = {"step": step, "metrics": metrics, "baselines": baselines, "by_label": by_label}
    atomic_files.write(workdir / "result.json", as_json(result, indent=1) + "\n")
    print_scores(f"at step {step}", metrics, baselines, by_label)
    pictures = "".join(f", {name}" for name in data.task.pictures(records, predictions))
    print(f"written to {workdir}: result.json, predictions.jsonl{pictures}", flush=True)


def print_scores(
    title: str,
    metrics: dict[str, float],
    baselines: dict[str, dict[str, float]],
    by_label: dict[str, dict[str, float]],
) -> None:
    """A table of metrics, beside those of baselines; and one of the scores of each label."""
    print(f"\n{title:>24} {'this model':>10}{''.join(f'  {name}' for name in baselines)}")
    for name, value in metrics.items():
        if by_label and "/" in name.removeprefix("eval/"):
            continue  # It is in the other table.
        beside = ""
        for baseline, scores in baselines.items():
            other = scores.get(name.removeprefix("eval/"))
            text = "" if other is None else f"{other:.4f}"
            beside += f"  {text:>{len(baseline)}}"
        print(f"{name:>24} {value:>10.4f}{beside}".rstrip())
    if not by_label:
        return
    columns = list(next(iter(by_label.values())))
    print("\n" + "".join(f"{name:>11}" for name in columns) + "  of each label")
    # Those of most support, in the order of the labels.
    shown = sorted(by_label, key=lambda label: -by_label[label]["support"])[:_MOST_LABELS]
    for label in (label for label in by_label if label in shown):
        scores = [by_label[label][name] for name in columns]
        cells = [f"{x:>11,}" if isinstance(x, int) else f"{x:>11.4f}" for x in scores]
        # Last, for widths of scripts differ.
        print(f"{''.join(cells)}  {safe_text.one_line(label)}")
    if len(shown) < len(by_label):
        print(f"and {len(by_label) - len(shown)} labels of less support")


_MOST_LABELS = 60  # In a table that is printed; result.json has them all.


def write_predictions(
    path: pathlib.Path, task: Task, records: Sequence[Record], predictions: Sequence[Any]
) -> None:
    """One JSON object a record: its name, the gold label and the prediction."""
    lines = [
        json_line({"name": record.name, "gold": task.gold(record), "prediction": prediction})
        for record, prediction in zip(records, predictions, strict=True)
    ]
    atomic_files.write(path, "".join(lines))


def as_json(tree: Any, indent: int | None = None) -> str:
    """JSON, which knows neither NaN nor infinity: null stands for both."""

    def finite(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: finite(child) for key, child in x.items()}
        if isinstance(x, list | tuple):
            return [finite(child) for child in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(finite(tree), ensure_ascii=False, indent=indent)


def json_line(fields: dict[str, Any]) -> str:
    """A line of JSON Lines, its end included."""
    text = as_json(fields)
    # For `str.splitlines` and others these end a line, and for JSON they do not.
    for character in "\u0085\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text + "\n"


def seeds(workdir: pathlib.Path, num_runs: int, estimates: dict[str, Estimate]) -> None:
    """Writes and prints the mean of each metric over runs, with its standard error."""
    as_dict = {name: estimate._asdict() for name, estimate in estimates.items()}
    atomic_files.write(workdir / "seeds.json", as_json(as_dict, indent=1) + "\n")
    print(f"\n{f'over {num_runs} seeds':>24} mean ± standard error")
    for name, estimate in estimates.items():
        print(f"{name:>24} {estimate.mean:.4f} ± {estimate.standard_error:.4f}")
    print(f"written to {workdir}: seeds.json", flush=True)


def end(
    workdir: pathlib.Path,
    metrics: dict[str, float],
    made_by: Sequence[str],
    *,
    model_name: str,
    compressors: Callable[[], dict[str, float]] | None,
    no_bits_per_byte: str,
) -> None:
    """Prints the result beside general-purpose compressors, and what one can do next.

    Args:
      made_by: the command of the run.
      compressors: gives their bits per byte; None where no one asked.
      no_bits_per_byte: the reason where the run has none.
    """
    print(f"\nvalidation loss {metrics['eval/loss']:.4f} nats a token")
    if "eval/bits_per_byte" in metrics:
        print(f"bits per byte   {metrics['eval/bits_per_byte']:.3f}  this model")
        if compressors:
            for name, bits in compressors().items():
                print(f"                {bits:.3f}  {name}, on the same held-out bytes")
    if no_bits_per_byte:
        print(f"bits per byte   not given: {no_bits_per_byte}")
    for name in metrics:  # Of other corpora, and their mean.
        if name.count("/") == 2 and not name.endswith("perplexity"):
            print(f"{name:<30}  {metrics[name]:.4f}")
    print(f"written to      {workdir}: metrics.jsonl, tensorboard/, checkpoints/, tokenizer/")
    if family_named(model_name).architecture == "decoder":
        sample = ["--config=configs/generate.py", f"--config.checkpoint={workdir}"]
        print(f"sample from it  {command(*sample, '--config.prompt=def ')}")
    # The last of two equal flags would win, which hides what is meant.
    own = re.compile(r"--?(workdir=|config\.init_from=|extend\b)")
    kept = [arg for arg in made_by[1:] if not own.match(arg)]
    more = command(*kept, f"--config.init_from={workdir}", f"--workdir={workdir}-more")
    num = os.environ.get("JAX_NUM_CPU_DEVICES", "1")  # Without them there would be no such mesh.
    simulated = "" if num == "1" else f"JAX_NUM_CPU_DEVICES={num} "
    print(f"train it on     {simulated}{more}", flush=True)


def compressor_bits_per_byte(data: ml_collections.ConfigDict) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` on the validation documents of a `data` block."""
    places = [data.sources[name] for name in sorted(data.sources)] if "sources" in data else [data]
    every = [
        make_source(
            place.source,
            split="validation",
            spec=place.validation,
            field=place.field,
            **task_data.document_limit(data),
        )
        for place in places
    ]
    packers = {"gzip -9": zlib.compressobj(9, wbits=31), "xz -9": lzma.LZMACompressor(preset=9)}
    num_bytes, sizes = 0, dict.fromkeys(packers, 0)
    # One stream of all documents, so that a compressor learns from those before, as a model did.
    for document in itertools.chain(*(readable(one, data.on_error, []) for one in every)):
        text = document.text.encode()
        num_bytes += len(text)
        for name, packer in packers.items():
            sizes[name] += len(packer.compress(text))
    for name, packer in packers.items():
        sizes[name] += len(packer.flush())
    return {name: 8 * size / num_bytes for name, size in sizes.items()}
