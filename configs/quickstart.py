r"""How well does a small GPT-2 learn real text in three minutes on two CPU cores?

Command:   python launch.py
Hardware:  2 CPU cores, under five minutes, all included.
Expected:  fewer bits per byte than `gzip -9` on the same held-out files. (measured: see README.md)
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The baseline; `arg` may be 'debug': a few steps of a tiny model, in seconds."""
    arg = common.parse_arg(arg, debug=False, optimizer="adamw", schedule="cosine")
    config = common.trunk("pretrain")
    config.tokenizer = dict(kind="sentencepiece", algorithm="bpe", vocab_size=2048, user_symbols=())
    config.data = dict(
        source="python_stdlib",
        train="",
        validation="",
        field="",
        seq_len=256,
        batch_size=16,
        add_bos=True,
        add_eos=True,
        on_error="raise",
    )
    config.objective = dict(kind="causal")
    config.model = dict(
        name="gpt2",
        vocab_size=2048,
        max_len=256,
        num_layers=4,
        num_heads=4,
        head_dim=64,
        model_dim=256,
        mlp_dim=1024,
        dropout=0.0,
        dtype="auto",
        attention="auto",
        remat="none",
        scan_layers=False,
    )
    config.train = dict(num_steps=400, accumulate_steps=1, max_skipped=10)
    config.optimizer = common.optimizer(
        arg.optimizer, arg.schedule, peak_lr=3e-3, warmup_steps=20
    )
    config.eval = dict(every_steps=200, batch_size=16, sample_tokens=100, compressors=True)
    config.checkpoint.every_steps = 200
    if arg.debug:
        config.model.update(num_layers=2, num_heads=2, head_dim=16, model_dim=32, mlp_dim=128)
        config.train.num_steps = 4
        config.optimizer.warmup_steps = 1
        config.eval.update(every_steps=2, sample_tokens=8)
        config.checkpoint.every_steps = 2
        config.log.every_steps = 1
    return config
