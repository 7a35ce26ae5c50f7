r"""What do four families learn of the same text, each by its own objective, at the same size?

Command:   python launch.py --config=configs/families.py:family=gpt2 --workdir=runs/gpt2
           and so with llama, bert and t5; docs/results/families.md shows the curves.
Hardware:  2 CPU cores; 3 to 6 minutes each.
Expected:  validation losses of 3.19, 3.07, 5.59 and 4.50 nats a target, where unigrams leave 6.33,
           6.33, 6.35 and 5.93.

Each has about 1.1M parameters, the quickstart's vocabulary, rows and steps, and the same rule,
Muon, at the same rate. Losses of different objectives cannot be compared:
each has its own baseline.
"""

import ml_collections

from configs import bert, common, llama, t5


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: family=gpt2|llama|bert|t5, objective (the family's first one), tokenizer,
    sources=a+b, optimizer, schedule, debug.
    """
    arg = common.parse_arg(
        arg,
        family="gpt2",
        objective="",
        tokenizer="bpe",
        sources="",
        optimizer="muon",
        schedule="cosine",
        debug=False,
    )
    V, L = 2048, 256
    model = common.choose("family", arg.family, small_models(vocab_size=V, max_len=L))
    objectives = {
        "gpt2": common.DECODER_OBJECTIVES,
        "llama": common.DECODER_OBJECTIVES,
        "bert": {"masked": bert.masked()},
        "t5": t5.objectives(),
    }[arg.family]
    name = arg.objective or next(iter(objectives))
    objective = common.choose_by_kind("objective", name, objectives)
    if "dropout" in model:
        model["dropout"] = 0.0  # Of an epoch's third no row is seen twice.
    config = common.pretraining(
        model,
        objective=objective,
        seq_len=L,
        vocab_size=V,
        mask=True,
        num_sentinels=100,
        optimizer=common.optimizer(arg.optimizer, arg.schedule, peak_lr=1e-2, warmup_steps=20),
        batch_size=16,
        accumulate_steps=1,
        num_steps=600,
        arg=arg,
    )
    if not arg.debug:
        config.eval.update(every_steps=100, sample_tokens=0)
    return config


def small_models(*names: str, vocab_size: int = 2048, max_len: int = 512) -> dict[str, dict]:
    """Model blocks of about 1.1M parameters, of these families or of all."""
    size = dict(vocab_size=vocab_size, max_len=max_len)
    models = {
        "gpt2": common.gpt2_model(4, 2, 64, 128, **size),
        "llama": llama.llama_model(4, 2, 1, 64, 128, 384, rope_theta=1e4, tied_output=True, **size),
        "bert": bert.bert_model(4, 128, **size),
        "t5": t5.t5_model(2, 2, 64, 128, 384, version="1.0", vocab_size=vocab_size),
    }
    return {name: models[name] for name in names or models}
