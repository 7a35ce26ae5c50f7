"""Pieces shared by several configs. Plain functions that return plain values.

The comment behind a key says what it is, for `launch.py --print_config` and `--help_config` too. It
stands where the key is made, which has a line of its own; the block is the one that the docstring
or the comment above names.
"""

import ml_collections

from configs import corpora


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


# Of the optimizer block, what each rule reads besides; then what each schedule does.
_RULES = {
    "adamw": dict(
        b1=0.9,  # Decay of the running mean of gradients.
        b2=0.95,  # Decay of the running mean of squared gradients.
        eps=1e-8,  # Added to the root of the squares that an update is divided by.
        weight_decay=0.1,  # Times the rate, the share of a matrix that a step takes away.
    ),
    "lion": dict(
        b1=0.9,  # Share of the mean of gradients in what an update is the sign of.
        b2=0.99,  # Decay of the running mean of gradients.
        weight_decay=1.0,  # Times the rate, the share of a matrix that a step takes away.
    ),
    "adafactor": dict(
        weight_decay=0.0,  # The share of a matrix that a step takes away, whatever the rate.
    ),
    "sgd": dict(
        momentum=0.9,  # Share of the last update that the next one starts from.
        weight_decay=0.0,
    ),
    "muon": dict(
        beta=0.95,  # Momentum of the matrices' gradients, before they are orthogonalised.
        b1=0.9,  # Of the AdamW that trains all but matrices: decay of the mean of gradients.
        b2=0.95,  # Of that AdamW: decay of the mean of squared gradients.
        eps=1e-8,  # Of that AdamW, and of what Muon normalises by: added to a divisor.
        weight_decay=0.1,  # Times the rate, the share of a matrix that a step takes away.
    ),
}
# Of the optimizer block, too.
_SCHEDULES = {
    "constant": dict(),
    "linear": dict(
        final_lr_ratio=0.1,  # The rate at the end of the run, as a share of peak_lr.
    ),
    "cosine": dict(
        final_lr_ratio=0.1,  # The rate at the end of the run, as a share of peak_lr.
    ),
    "rsqrt": dict(),
    "wsd": dict(
        final_lr_ratio=0.1,  # The rate at the end of the run, as a share of peak_lr.
        decay_ratio=0.2,  # Share of the run's steps, the last ones, in which the rate falls.
    ),
}


def optimizer(name: str, schedule: str, *, peak_lr: float, warmup_steps: int, **settings) -> dict:
    """The optimizer block: the keys that this rule and this schedule read, and no others."""
    return dict(
        name=name,  # The rule: adamw, lion, adafactor, sgd or muon.
        schedule=schedule,  # Of the rate by step: constant, linear, cosine, rsqrt or wsd.
        peak_lr=peak_lr,  # Highest learning rate, reached after warm-up.
        warmup_steps=warmup_steps,  # Steps of warm-up, a linear rise; 0 for warmup_share.
        warmup_share=0.0,  # Warm-up as a share of the run's steps; 0 for warmup_steps.
        layer_decay=1.0,  # Rate of a layer as a share of that above it; 1: all alike.
        clip_norm=1.0,  # Longest gradient, in L2 norm; longer ones are scaled to it; 0: never.
        ema_decay=0.0,  # Decay a step of the averaged weights that evaluations use; 0: none.
        **choose("optimizer", name, _RULES),
        **choose("schedule", schedule, _SCHEDULES),
    ) | dict(settings)


def train(num_steps: int, num_epochs: float = 0.0, accumulate_steps: int = 1) -> dict:
    """The train block: so many steps, or else so many epochs; one of the two is 0."""
    return dict(
        num_steps=num_steps,  # Optimizer steps of the run; 0 for num_epochs.
        num_epochs=num_epochs,  # Passes over the training data; 0.0 for num_steps.
        accumulate_steps=accumulate_steps,  # Micro-batches whose gradients make a step.
        max_skipped=10,  # Steps in a row without a finite gradient that end the run.
        patience=0,  # Evaluations in a row without a better one that end the run; 0: none do.
    )


def new(experiment: str) -> ml_collections.ConfigDict:
    """A config without any other key."""
    config = ml_collections.ConfigDict()
    config.experiment = experiment  # What launch.py runs: the file experiments/NAME.py.
    return config


def trunk(experiment: str) -> ml_collections.ConfigDict:
    """The keys that every training config shares, with values that hardly any changes."""
    config = new(experiment)
    config.seed = 0  # Of first weights, order of rows, dropout and masks.
    config.init_from = ""  # Run, or folder of transformers, to start from; "": random weights.
    config.checkpoint = dict(
        every_steps=0,  # Steps between checkpoints; 0: at the end alone.
        keep_last=2,  # How many of the newest checkpoints are kept.
        keep_every=0,  # Checkpoints of multiples of so many steps are kept, too; 0: no more.
        best_metric="",  # Metric whose best checkpoint is kept and used; "": the last one is.
        best_mode="min",  # Whether less (min) or more (max) of best_metric is better.
    )
    config.log = dict(
        every_steps=10,  # Steps between lines of the training log.
        wandb_project="",  # Project of Weights & Biases that gets the log too; "": none.
    )
    config.parallel = parallel()
    return config


def parallel() -> dict:
    """The parallel block: every device has all parameters, and its own rows."""
    return dict(
        strategy="jit",  # How a step is spread: jit, as the other keys say; pmap, by data alone.
        data=-1,  # Copies of the parameters, each with rows of its own; -1: what is left.
        fsdp=1,  # Shards that a copy is cut into, each with rows of its own; -1: what is left.
        tensor=1,  # Shards of heads, MLPs and the vocabulary; -1: what is left.
        sequence=1,  # Shards that each row is cut into; -1: what is left.
    )


def language_loss() -> dict:
    """The loss block of language models: plain cross-entropy."""
    return dict(
        z_loss=0.0,  # Weight of log(Z)^2, which keeps logits from drifting.
        label_smoothing=0.0,  # Share of a target that is spread over the whole vocabulary.
        num_blocks=1,  # Parts of a row whose logits are made in turn, to save memory.
    )


def language_eval(every_steps: int, sample_tokens: int = 0, compressors: bool = False) -> dict:
    """The eval block of language models."""
    return dict(
        every_steps=every_steps,  # Steps between evaluations; 0: at the end alone.
        batch_size=16,  # Rows at a time, over all devices; changes no number.
        sample_tokens=sample_tokens,  # Tokens of the text that each one writes; 0: none.
        compressors=compressors,  # Whether gzip and xz are shown beside, in bits per byte.
        corpora=dict(),  # By name, others to evaluate on: blocks of source, validation, field.
        fairness=language_fairness(),
    )


def language_fairness() -> dict:
    """The eval.fairness block: what configs/fairness.py measures, at each evaluation."""
    return dict(
        pairs="",  # Files of pairs of sentences that are compared; "": none.
        prompts="",  # Files of prompts, behind which what is written is judged; "": none.
        classifier="",  # The run of configs/classify.py that judges it.
        positive="",  # Its label of toxic texts.
    )


# Of every model block, what changes no number, or hardly any.
HOW_TO_RUN = dict(
    dtype="auto",  # Of activations: float32, bfloat16, or auto, which is float32 on CPUs alone.
    attention="auto",  # Kernel: einsum, blocked, cudnn, ..., or auto, the fastest that fits.
    matmul="plain",  # Products of layers: plain, in dtype; or fp8, in 8 bits.
    remat="none",  # What is computed twice, to save memory: none, dots (all but products), full.
    scan_layers=False,  # Whether one layer is compiled and looped over; or auto: on CPUs.
)


def with_dropout(dropout: float) -> dict:
    """Of every model block but a Llama's, what changes no shape."""
    return dict(
        dropout=dropout,  # Share of activations that training sets to 0.
        **HOW_TO_RUN,
    )


def model_size(
    name: str,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    width: int,
    mlp_dim: int,
    *,
    vocab_size: int,
) -> dict:
    """Of every model block, the family and the shape."""
    return dict(
        name=name,  # The family: gpt2, llama, bert or t5.
        vocab_size=vocab_size,  # Rows of the embedding; at least the tokenizer's vocabulary.
        num_layers=num_layers,  # Layers; of T5, of its encoder, and again of its decoder.
        num_heads=num_heads,  # Attention heads of a layer.
        head_dim=head_dim,  # Width of a head's queries, keys and values.
        model_dim=width,  # Width of the residual stream between layers.
        mlp_dim=mlp_dim,  # Width of an MLP's hidden layer.
    )


def mup(num_heads: int = 0, head_dim: int = 0, width: int = 0, mlp_dim: int = 0) -> dict:
    """Of a decoder's model block, the base shape of muP (docs/mup.md); all 0 is without."""
    return dict(
        mup_model_dim=width,  # model_dim of the shape whose rates hold; 0: without muP.
        mup_num_heads=num_heads,  # num_heads of the shape whose rates hold; 0: without muP.
        mup_head_dim=head_dim,  # head_dim of the shape whose rates hold; 0: without muP.
        mup_mlp_dim=mlp_dim,  # mlp_dim of the shape whose rates hold; 0: without muP.
    )


def gpt2_model(
    num_layers: int, num_heads: int, head_dim: int, width: int, *, vocab_size: int, max_len: int
) -> dict:
    """The model block of a GPT-2 or GPT-3 shape."""
    shape = (num_layers, num_heads, head_dim, width, 4 * width)
    return dict(
        **model_size("gpt2", *shape, vocab_size=vocab_size),
        max_len=max_len,  # Learned positions, which is the most tokens of a row.
        **mup(),
        **with_dropout(0.0),
    )


def tokenizer(name: str, vocab_size: int, *, mask: bool = False, num_sentinels: int = 0) -> dict:
    """The tokenizer block of bpe or unigram (trained on the source), bytes, or a file's path."""
    if name == "bytes":
        kind, settings = "bytes", dict()
    elif name in ("bpe", "unigram", "sentencepiece"):
        algorithm = "unigram" if name == "unigram" else "bpe"
        kind = "sentencepiece"
        settings = dict(
            algorithm=algorithm,  # How pieces are found: bpe, or unigram, which takes minutes.
            vocab_size=vocab_size,  # Pieces, special tokens and single bytes among them.
            character_coverage=0.9995,  # Share of the text whose characters are pieces.
            user_symbols=(),  # Texts that are always one token, also where a text spells them.
            mask=mask,  # Whether there is a <mask>, which masked objectives need.
            num_sentinels=num_sentinels,  # Of <extra_id_0>, ..., which span corruption needs.
        )
    else:
        kind = "file"
        settings = dict(
            path=name,  # A tokenizer.json, a SentencePiece model, or a folder of transformers.
        )
    return settings | dict(
        kind=kind,  # bytes, sentencepiece (trained on the source), or file.
    )


def objective(kind: str) -> dict:
    """The objective block, as far as all kinds have it."""
    return dict(
        kind=kind,  # What is predicted: causal, prefix, masked, span_corruption or mixture.
    )


def prefix(suffix_share: float = 0.5) -> dict:
    """The objective block of prefixes that are read whole, and suffixes that are predicted."""
    return objective("prefix") | dict(
        suffix_share=suffix_share,  # Mean share of a document that is predicted.
    )


def mixture(**blocks: dict) -> dict:
    """The objective block of several, by any names, in equal parts."""
    weight = dict(
        weight=1.0,  # Rows for this part are this as a share of all parts' weights.
    )
    return objective("mixture") | dict(parts={name: b | weight for name, b in blocks.items()})


DECODER_OBJECTIVES = {
    "causal": objective("causal"),
    "prefix": prefix(),
    "mixture": mixture(causal=objective("causal"), prefix=prefix()),
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

    `arg` holds the config's arguments: tokenizer, sources and debug are read here.
    """
    config = trunk("pretrain")
    config.tokenizer = tokenizer(arg.tokenizer, vocab_size, mask=mask, num_sentinels=num_sentinels)
    config.data = corpora.text_data(seq_len, batch_size, arg.sources)
    config.objective = objective
    config.model = model
    config.loss = language_loss()
    config.train = train(num_steps, accumulate_steps=accumulate_steps)
    config.optimizer = optimizer
    samples = 100 if model["name"] in ("gpt2", "llama") else 0  # Only decoders write.
    config.eval = language_eval(1000, sample_tokens=samples)
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

    `arg` holds the config's arguments: objective, tokenizer, sources, optimizer, schedule, debug.
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
