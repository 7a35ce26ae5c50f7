"""Pieces shared by several configs. Plain functions that return plain values."""

import ml_collections
from ml_collections.config_dict import placeholder


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Parses `--config=file.py:size=small,debug` into typed values.

    Each default gives its option's type; a bare name means True. Unknown names raise, so that a
    typo never trains the wrong model.
    """
    given = dict(
        (part.split("=", 1) if "=" in part else (part, "true"))
        for part in (arg or "").split(",")
        if part
    )
    if unknown := sorted(given.keys() - defaults.keys()):
        raise ValueError(
            f"unknown argument {unknown[0]!r}; this config takes {', '.join(defaults)}"
        )
    parsed = dict(defaults)
    for name, text in given.items():
        kind = type(defaults[name])
        if kind is bool and text.lower() not in ("true", "false"):
            raise ValueError(f"{name}={text} must be true or false")
        parsed[name] = text.lower() == "true" if kind is bool else kind(text)
    return ml_collections.ConfigDict(parsed)


def choose(name: str, value: str, table: dict):
    """The entry of a table of presets, or an error that lists them."""
    if value not in table:
        raise ValueError(f"{name}={value} is unknown; choose {', '.join(table)}")
    return table[value]


_RULES = {
    "adamw": dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1),
    "lion": dict(b1=0.9, b2=0.99, weight_decay=1.0),
    "adafactor": dict(weight_decay=0.0),
    "sgd": dict(momentum=0.9, weight_decay=0.0),
    "muon": dict(beta=0.95, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1),
}
_SCHEDULES = {
    "constant": dict(),
    "linear": dict(final_lr_ratio=0.1),
    "cosine": dict(final_lr_ratio=0.1),
    "rsqrt": dict(),
    "wsd": dict(final_lr_ratio=0.1, decay_ratio=0.2),
}


def optimizer(name: str, schedule: str, **settings) -> dict:
    """The optimizer block: the keys that this rule and this schedule read, and no others."""
    return dict(
        name=name,
        schedule=schedule,
        warmup_share=0.0,
        layer_decay=1.0,
        clip_norm=1.0,
        ema_decay=0.0,
        **choose("optimizer", name, _RULES),
        **choose("schedule", schedule, _SCHEDULES),
    ) | dict(settings)


def train(num_steps: int, accumulate_steps: int = 1) -> dict:
    """The train block: so many steps; for epochs instead, set `num_epochs` and zero steps."""
    return dict(
        num_steps=num_steps,
        num_epochs=0.0,
        accumulate_steps=accumulate_steps,
        max_skipped=10,
        patience=0,
    )


def task_settings(*names: str) -> dict:
    """Settings of a task that replace those it was trained with; None keeps them.

    They name the fields of records, which a folder of `transformers` says nothing of, or else a
    scheme of tags or a scorer; `unanswerable` says whether a question may have no answer.
    """
    return {name: placeholder(bool if name == "unanswerable" else str) for name in names}


def trunk(experiment: str) -> ml_collections.ConfigDict:
    """The keys that every training config shares, with values that hardly any changes."""
    config = ml_collections.ConfigDict()
    config.experiment = experiment
    config.seed = 0
    config.init_from = ""
    config.checkpoint = dict(
        every_steps=0, keep_last=2, keep_every=0, best_metric="", best_mode="min"
    )
    config.log = dict(every_steps=10, wandb_project="")
    config.parallel = parallel()
    return config


def parallel() -> dict:
    """The parallel block: every device has all parameters, and its own rows."""
    return dict(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)


def language_loss() -> dict:
    """The loss block of language models: plain cross-entropy."""
    return dict(z_loss=0.0, label_smoothing=0.0, num_blocks=1)


# Of every model block, what changes no number, or hardly any.
HOW_TO_RUN = dict(dtype="auto", attention="auto", matmul="plain", remat="none", scan_layers=False)


def mup(num_heads: int = 0, head_dim: int = 0, width: int = 0, mlp_dim: int = 0) -> dict:
    """Of a decoder's model block, the base shape of muP (docs/mup.md); all 0 is without."""
    return dict(
        mup_model_dim=width, mup_num_heads=num_heads, mup_head_dim=head_dim, mup_mlp_dim=mlp_dim
    )


def gpt2_model(
    num_layers: int, num_heads: int, head_dim: int, width: int, *, vocab_size: int, max_len: int
) -> dict:
    """The model block of a GPT-2 or GPT-3 shape."""
    return dict(
        name="gpt2",
        vocab_size=vocab_size,
        max_len=max_len,
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
        model_dim=width,
        mlp_dim=4 * width,
        **mup(),
        dropout=0.0,
        **HOW_TO_RUN,
    )


def tokenizer(name: str, vocab_size: int, *, mask: bool = False, num_sentinels: int = 0) -> dict:
    """The tokenizer block of bpe or unigram (trained on the source), bytes, or a file's path."""
    if name == "bytes":
        return dict(kind="bytes")
    if name in ("bpe", "unigram", "sentencepiece"):
        return dict(
            kind="sentencepiece",
            algorithm="unigram" if name == "unigram" else "bpe",
            vocab_size=vocab_size,
            user_symbols=(),
            mask=mask,
            num_sentinels=num_sentinels,
        )
    return dict(kind="file", path=name)


def stdlib_data(seq_len: int, batch_size: int) -> dict:
    """The data block of the corpus that every machine has: Python's own standard library."""
    return dict(
        source="python_stdlib",
        train="",
        validation="",
        field="",
        seq_len=seq_len,
        batch_size=batch_size,
        batch_size_per_device=0,
        add_bos=True,
        add_eos=True,
        on_error="raise",
        max_document_bytes=1_000_000_000,
    )


DECODER_OBJECTIVES = {
    "causal": dict(kind="causal"),
    "prefix": dict(kind="prefix", suffix_share=0.5),
    "mixture": dict(
        kind="mixture",
        parts=dict(
            causal=dict(kind="causal", weight=1.0),
            prefix=dict(kind="prefix", suffix_share=0.5, weight=1.0),
        ),
    ),
}


def decoder_objective(name: str) -> dict:
    """The objective block of causal, prefix, or a mixture of both in equal parts."""
    return choose("objective", name, DECODER_OBJECTIVES)


def choose_by_kind(name: str, value: str, table: dict[str, dict]) -> dict:
    """The block of a table of blocks by its name there, or the first one of a kind."""
    by_kind = {block["kind"]: block for block in reversed(table.values())}
    return choose(name, value, by_kind | table)


def pretraining(
    model: dict,
    *,
    objective: dict,
    seq_len: int,
    vocab_size: int,
    optimizer: dict,
    batch_size: int,
    accumulate_steps: int,
    num_steps: int,
    arg: ml_collections.ConfigDict,
    mask: bool = False,
    num_sentinels: int = 0,
) -> ml_collections.ConfigDict:
    """A recipe on this machine's own text, which `data.source` replaces.

    `arg` holds the config's arguments: tokenizer and debug are read here.
    """
    config = trunk("pretrain")
    config.tokenizer = tokenizer(arg.tokenizer, vocab_size, mask=mask, num_sentinels=num_sentinels)
    config.data = stdlib_data(seq_len, batch_size)
    config.objective = objective
    config.model = model
    config.loss = language_loss()
    config.train = train(num_steps, accumulate_steps)
    config.optimizer = optimizer
    samples = 100 if model["name"] in ("gpt2", "llama") else 0  # Only decoders write.
    config.eval = dict(every_steps=1000, batch_size=16, sample_tokens=samples, compressors=False)
    config.checkpoint.every_steps = 1000
    return debug_size(config) if arg.debug else config


def gpt_pretraining(
    model: dict,
    *,
    peak_lr: float,
    batch_size: int,
    accumulate_steps: int,
    num_steps: int,
    arg: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
    """Causal pretraining as GPT-3's appendix B has it: warmup over 375M tokens, clipping at 1.

    `arg` holds the config's arguments: objective, tokenizer, optimizer, schedule and debug.
    """
    warmup_steps = round(375e6 / (batch_size * model["max_len"]))
    return pretraining(
        model,
        objective=decoder_objective(arg.objective),
        seq_len=model["max_len"],
        vocab_size=32768,
        optimizer=optimizer(
            arg.optimizer, arg.schedule, peak_lr=peak_lr, warmup_steps=warmup_steps
        ),
        batch_size=batch_size,
        accumulate_steps=accumulate_steps,
        num_steps=num_steps,
        arg=arg,
    )


_FINETUNING_ARGUMENTS = dict(
    model="init_from", tokenizer="bpe", optimizer="", schedule="linear", debug=False
)


def finetuning_arg(arg: str | None, **more) -> ml_collections.ConfigDict:
    """What every recipe for labelled data takes: model, tokenizer, optimizer, schedule, debug.

    Without `optimizer`, AdamW trains a pretrained model, and Muon one of no training.
    """
    return parse_arg(arg, **more, **_FINETUNING_ARGUMENTS)


def finetuning(
    task: dict,
    *,
    arg: ml_collections.ConfigDict,
    scratch: dict[str, dict],
    seq_len: int,
    debug_seq_len: int,
    best_metric: str,
    best_mode: str = "max",
    peak_lr: float = 5e-5,
    batch_size: int = 32,
    num_epochs: float = 3.0,
) -> ml_collections.ConfigDict:
    """A recipe for labelled data, with the rates of Devlin et al. 2019, appendix A.3.

    Args:
      task: the task block.
      arg: the config's arguments.
      scratch: model blocks by the names that `arg.model` may have, for a model of no training; with
        `debug`, the first one trains for about a minute on two CPU cores.
      seq_len: the most tokens of an example; debug_seq_len: the same with `debug`.
      best_metric, best_mode: which checkpoint counts.
    """
    config = trunk("finetune")
    is_new = arg.debug or arg.model != "init_from"
    rule = arg.optimizer or ("muon" if is_new else "adamw")
    if is_new:  # Nothing was learned that could be lost.
        peak_lr = 1e-2 if rule == "muon" else 1e-3
    config.num_seeds = 1
    config.task = task
    config.data = dict(
        source="",
        train="",
        validation="",
        validation_share=0.1,
        num_examples=0,
        seq_len=seq_len,
        batch_size=batch_size,
        batch_size_per_device=0,
        multiple=32,
        truncate=False,
        on_error="raise",
        max_document_bytes=1_000_000_000,
    )
    config.optimizer = optimizer(
        rule, arg.schedule, peak_lr=peak_lr, warmup_steps=0, warmup_share=0.1
    )
    if "final_lr_ratio" in config.optimizer:
        config.optimizer.final_lr_ratio = 0.0
    config.train = train(num_steps=0) | dict(num_epochs=num_epochs, frozen="")
    config.lora = dict(rank=0, alpha=16.0, targets="", rank_stabilized=False, dora=False)
    config.eval = dict(every_steps=100, batch_size=batch_size, on_training=False)
    config.checkpoint.update(every_steps=100, best_metric=best_metric, best_mode=best_mode)
    if is_new:
        name = next(iter(scratch)) if arg.model == "init_from" else arg.model
        config.model = choose("model", name, scratch)
        config.tokenizer = tokenizer(arg.tokenizer, config.model.vocab_size)
    else:
        config.model = dict(dropout=0.1, **HOW_TO_RUN)
    if arg.debug:
        config.data.update(seq_len=debug_seq_len, multiple=debug_seq_len)  # One program.
        config.data.truncate = True
        config.train.update(num_epochs=0.0, num_steps=120)
        config.eval.every_steps = config.checkpoint.every_steps = 60
    return config


_DEBUG_MODEL = dict(
    vocab_size=1024,
    max_len=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    model_dim=16,
    mlp_dim=64,
)


def debug_size(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same recipe for seconds on a CPU: a tiny model, a few steps, a small vocabulary."""
    if "vocab_size" in config.tokenizer:
        config.tokenizer.vocab_size = 1024
    config.model.update({k: v for k, v in _DEBUG_MODEL.items() if k in config.model})
    config.data.update(seq_len=64, batch_size=16)
    config.train.update(num_steps=4, accumulate_steps=1)
    config.optimizer.warmup_steps = 1
    config.eval.update(every_steps=2, batch_size=64)
    config.eval.sample_tokens = min(config.eval.sample_tokens, 8)
    config.checkpoint.every_steps = 2
    config.log.every_steps = 1
    return config
