"""What `benchmarks.train_step` trains: configs and batches on our side.

Dimension key: B batch, L length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from configs import bert, classify, common, gpt2, llama, quickstart
from lm.tasks.factory import make_task, text_inputs

SIZES = (
    "vocab_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "model_dim",
    "mlp_dim",
    "seq_len",
    "batch_size",
)
# Ways to run a case, as overrides of its config, whole blocks or single values: each is measured
# beside the same peers, and beside the first that was asked for.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "loss_in_blocks": {"loss.num_blocks": 8},
    "scanned": {"model.scan_layers": True},
    "dots_kept": {"model.remat": "dots"},
    "whole_layers_again": {"model.remat": "full"},
    "fp8": {"model.matmul": "fp8"},
    "bfloat16": {"model.dtype": "bfloat16"},
    "muon": {"optimizer": common.optimizer("muon", "cosine", peak_lr=1e-2, warmup_steps=20)},
}


class Case(NamedTuple):
    """A shape and what it is held to.

    config: of the run.
    platform: where its target counts.
    peers: names in `benchmarks.train_peers`.
    target: see `results.emit`.
    """

    config: Callable[[], ml_collections.ConfigDict]
    platform: str
    peers: tuple[str, ...]
    target: dict[str, float]


def _quickstart(**sizes: int):
    return _resized(quickstart.get_config("optimizer=adamw"), sizes)


def _gpt2(batch_size: int):
    config = gpt2.get_config("size=small")
    config.model.vocab_size = 50304  # A multiple of 128, as the peers have it.
    config.data.batch_size = batch_size
    config.train.accumulate_steps = 1
    return config


def _bert():
    """BERT-base with two classes, texts of 128 tokens."""
    config = classify.get_config("model=bert,optimizer=adamw")
    config.model = bert.bert_model(12, 768, vocab_size=30522, max_len=512)
    config.data.batch_size = 256
    config.train.update(num_steps=1000, num_epochs=0.0)
    config.task.update(labels=("no", "yes"), class_weights="1,1")
    return config


def _llama():
    """379M parameters: 24 layers of 1,024, 16 heads of 64 that share 4 keys and values."""
    config = llama.get_config("size=smollm2-360m")
    more = dict(vocab_size=32000, max_len=2048, rope_theta=1e4, tied_output=True)
    config.model = llama.llama_model(24, 16, 4, 64, 1024, 3840, **more)
    config.data.update(seq_len=2048, batch_size=16)
    config.train.accumulate_steps = 1
    return config


_ON_CPU = (
    "cpu",
    ("transformers", "compiled"),
    {"ratio": 1.1, "memory_ratio": 0.83},
)
CASES = {
    "quickstart": Case(_quickstart, *_ON_CPU),
    "width_256": Case(lambda: _quickstart(model_dim=256, num_heads=4), *_ON_CPU),
    "width_512": Case(lambda: _quickstart(model_dim=512, num_heads=8, batch_size=4), *_ON_CPU),
    "gpt2": Case(
        lambda: _gpt2(32),
        "gpu",
        ("torch_gpt2", "transformers"),
        {"ratio": 1.1, "memory_ratio": 1.0},
    ),
    "gpt2_b64": Case(lambda: _gpt2(64), "gpu", ("torch_gpt2", "transformers"), {"ratio": 1.1}),
    "bert": Case(_bert, "gpu", ("transformers",), {"ratio": 1.1}),
    "llama": Case(_llama, "gpu", ("transformers",), {"ratio": 1.5}),
}


def config_of(case: str, sizes: dict[str, int | None], variant: str) -> ml_collections.ConfigDict:
    """The config of a case; of `sizes`, None stands for the case's own.

    Heads and MLP keep their proportion to the width, unless they are given.
    """
    config = _resized(CASES[case].config(), {name: value for name, value in sizes.items() if value})
    blocks = {key: value for key, value in VARIANTS[variant].items() if isinstance(value, dict)}
    for key, block in blocks.items():
        config[key] = ml_collections.ConfigDict(block)
    values = {key: value for key, value in VARIANTS[variant].items() if key not in blocks}
    config.lock().update_from_flattened_dict(values)
    return config


def _resized(config: ml_collections.ConfigDict, given: dict[str, int]) -> ml_collections.ConfigDict:
    model = config.model
    config.data.update({name: given[name] for name in ("seq_len", "batch_size") & given.keys()})
    mlp_ratio = model.mlp_dim / model.model_dim
    model.update({name: size for name, size in given.items() if name not in config.data})
    if "mlp_dim" not in given:
        model.mlp_dim = round(mlp_ratio * model.model_dim)
    model.head_dim = model.model_dim // model.num_heads
    model.max_len = max(model.max_len, config.data.seq_len)
    return config


def shape_of(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Of `SIZES`, what this config has."""
    blocks = config.model.to_dict() | config.data.to_dict()
    return {name: blocks[name] for name in SIZES if name in blocks}


class Program(NamedTuple):
    """The step of `launch.py` on the first device, and a batch that is made up.

    step: (state, batch, **more) -> (state, metrics), jitted.
    batch, more: see `step`.
    first_state: makes a state.
    abstract: its shapes.
    model: the config of the model, in which "auto" is resolved.
    flops_per_token: by the convention of `lm.costs.flops`.
    """

    step: Callable
    batch: Any
    more: dict[str, Any]
    first_state: Callable[[], Any]
    abstract: Any
    model: Any
    flops_per_token: float

    def trace(self):
        """The traced step; nothing is computed."""
        return self.step.trace(self.abstract, self.batch, **self.more)


def make_program(config: ml_collections.ConfigDict, num_documents: int) -> Program:
    """The program of a config, on rows of so many documents."""
    make = {"pretrain": _pretraining, "finetune": _classification}[config.experiment]
    return make(config, num_documents)


def make_step(
    config: ml_collections.ConfigDict, num_documents: int
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """() -> the loss of a step, on the device; and facts."""
    import jax

    from lm.costs import flops, hardware, roofline

    program, kind = make_program(config, num_documents), jax.devices()[0].device_kind
    chip = hardware.chip_of(kind)
    predicted = roofline.step_seconds(program.trace().jaxpr, chip).seconds if chip else None
    state = program.first_state()

    def step():
        nonlocal state
        state, metrics = program.step(state, program.batch, **program.more)
        return metrics["loss"]

    return step, {
        "device": kind,
        "dtype": program.model.dtype,
        "attention": program.model.attention,
        "flops_per_token": program.flops_per_token,
        "peak_flops": flops.peak_flops(kind),
        "predicted_seconds": predicted,
    }


def _pretraining(config: ml_collections.ConfigDict, num_documents: int) -> Program:
    import jax

    from experiments.wiring import init_from, pretraining
    from lm.objectives.causal import causal

    parts = pretraining.make_parts(config, devices=jax.devices()[:1])
    abstract = pretraining.abstract_state(parts)
    step, place = pretraining.make_step(parts, causal, abstract)
    return Program(
        step=step,
        batch=place(random_rows(shape_of(config), num_documents)),
        more={"key": jax.random.key(0)},
        first_state=lambda: init_from.make_state(config.init_from, parts, abstract)(config.seed),
        abstract=abstract,
        model=parts.model.config,
        flops_per_token=pretraining.flops_per_token(parts, causal, abstract, config.data.seq_len),
    )


def random_rows(shape: dict[str, int], num_documents: int):
    """Rows of so many documents of one length, without padding."""
    from lm.corpus.rows import Rows

    B, L = shape["batch_size"], shape["seq_len"]
    tokens_BL = np.random.default_rng(0).integers(0, shape["vocab_size"], (B, L), dtype=np.int32)
    document_L, position_L = np.divmod(np.arange(L, dtype=np.int32), -(-L // num_documents))
    segment_ids_BL = np.broadcast_to(1 + document_L, (B, L))
    positions_BL = np.broadcast_to(position_L, (B, L))
    next_BL, ids_B = np.roll(tokens_BL, -1, axis=1), np.arange(B, dtype=np.int32)
    return Rows(tokens_BL, next_BL, segment_ids_BL, positions_BL, ids_B)


def _classification(config: ml_collections.ConfigDict, num_documents: int) -> Program:
    """Each row is one text, whatever `num_documents` says: labels are of rows."""
    import jax

    from experiments import finetune

    del num_documents
    parts = finetune.make_parts(config, no_data(config), devices=jax.devices()[:1])
    step, place = finetune.make_step(parts)
    return Program(
        step=step,
        batch=place(random_texts(shape_of(config))),
        more={"key": jax.random.key(0), "frozen": parts.frozen},  # Nothing is frozen.
        first_state=parts.first_state,
        abstract=parts.abstract,
        model=parts.model.body.config,
        flops_per_token=finetune.flops_per_token(parts.model, parts.params, config.data.seq_len),
    )


def no_data(config: ml_collections.ConfigDict):
    """The task of a config, and no records of it."""
    from experiments.wiring import task_data
    from lm.tokenizers import tokenizers

    tokenizer = tokenizers.ByteTokenizer()  # Only its special tokens are asked for.
    of_rows = dict(seq_len=config.data.seq_len, truncate=config.data.truncate)
    task = make_task(config.task.to_dict(), text_inputs(config.model, tokenizer, **of_rows))
    nothing = task_data.Split([], [], [])
    return task_data.TaskData(
        task=task,
        block=config.task.to_dict(),
        tokenizer=tokenizer,
        train=nothing,
        validation=nothing,
        skipped=[],
        lines={},
        hash="",
    )


def random_texts(shape: dict[str, int]) -> dict[str, np.ndarray]:
    """Texts that fill their rows, each with one of two labels."""
    B, L = shape["batch_size"], shape["seq_len"]
    rng = np.random.default_rng(0)
    return {
        "tokens_BL": rng.integers(0, shape["vocab_size"], (B, L), dtype=np.int32),
        "types_BL": np.zeros((B, L), np.int32),
        "length_BE": np.full((B, 1), L, np.int32),
        "label_BE": rng.integers(0, 2, (B, 1), dtype=np.int32),
        "weight_BE": np.ones((B, 1), np.float32),
    }
