"""What a run says for itself: once at its start, once at its end."""

import gzip
import lzma
import os
import pathlib
import re
import shlex
import sys
import textwrap

import jax
import ml_collections

from experiments import build
from experiments.shown import config_text
from lm.data.preparation import Prepared
from lm.data.sources import make_source, readable
from lm.train import memory
from lm.train.optimizers import decays
from lm.train.state import TrainState


def start(
    config: ml_collections.ConfigDict,
    parts: build.Parts,
    prepared: Prepared,
    abstract: TrainState,
    workdir: pathlib.Path,
) -> None:
    """Prints the config, and what follows from it."""
    print(config_text(config))
    model_config, split = parts.model.config, prepared.splits["train"]
    tokens = config.data.batch_size * config.data.seq_len
    state_bytes = memory.tree_bytes(abstract)
    lines = {
        "parameters": f"{build.num_params(abstract.params):,}",
        "weight decay": _decay_line(config, abstract),
        "compute": f"{model_config.dtype}, attention by {model_config.attention}",
        "data": f"{split.num_tokens:,} tokens of {split.num_documents:,} documents in "
        f"{split.num_rows:,} rows, {split.num_bytes / max(split.num_tokens, 1):.2f} bytes a token",
        "tokens a step": f"{tokens:,}, {config.train.num_steps:,} steps, "
        f"{config.train.num_steps * config.data.batch_size / split.num_rows:.2f} epochs",
        "mesh": f"{dict(parts.mesh.shape)} of {jax.devices()[0].device_kind}",
        "memory": f"{state_bytes / 1e6:,.0f} MB of state on each device, besides activations",
        "workdir": str(workdir),
    }
    for name, text in lines.items():
        line = f"{name:>14}: {text}"
        print(textwrap.fill(line, 100, subsequent_indent=" " * 16, break_long_words=False))
    print(flush=True)


def _decay_line(config: ml_collections.ConfigDict, abstract: TrainState) -> str:
    by_decay = {True: [], False: []}
    for path, _ in jax.tree_util.tree_flatten_with_path(abstract.params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        by_decay[decays(path)].append(name)
    return (
        f"{config.optimizer.weight_decay} on {', '.join(by_decay[True])}; none on the other "
        f"{len(by_decay[False])}: {', '.join(by_decay[False])}"
    )


def end(
    config: ml_collections.ConfigDict,
    prepared: Prepared,
    workdir: pathlib.Path,
    metrics: dict[str, float],
) -> None:
    """Prints the result beside general-purpose compressors, and what one can do next."""
    print(f"\nvalidation loss {metrics['eval/loss']:.4f} nats a token")
    if "eval/bits_per_byte" in metrics:
        print(f"bits per byte   {metrics['eval/bits_per_byte']:.3f}  this model")
        if config.eval.compressors:
            for name, bits in compressor_bits_per_byte(config).items():
                print(f"                {bits:.3f}  {name}, on the same held-out bytes")
    print(f"written to      {workdir}: metrics.jsonl, tensorboard/, checkpoints/, tokenizer/")
    if build.family_block(config.model).architecture == "decoder":
        sample = ["--config=configs/generate.py", f"--config.checkpoint={workdir}"]
        print(f"sample from it  {command(*sample, '--config.prompt=def ')}")
    kept = [arg for arg in sys.argv[1:] if not re.match("--?(workdir|config.init_from)=", arg)]
    more = command(*kept, f"--config.init_from={workdir}", f"--workdir={workdir}-more")
    print(f"train it on     {more}", flush=True)


def command(*args: str) -> str:
    """A command line of `launch.py` that can be pasted where this one was."""
    python = os.path.relpath(sys.executable)
    return shlex.join(["python" if python.startswith("..") else python, "launch.py", *args])


def compressor_bits_per_byte(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` on the validation documents in one stream."""
    source = make_source(
        config.data.source,
        split="validation",
        spec=config.data.validation,
        field=config.data.field,
    )
    documents = readable(source, config.data.on_error, [])
    data = b"".join(document.text.encode() for document in documents)
    compressed = {
        "gzip -9": gzip.compress(data, compresslevel=9),
        "xz -9": lzma.compress(data, preset=9),
    }
    return {name: 8 * len(packed) / len(data) for name, packed in compressed.items()}
