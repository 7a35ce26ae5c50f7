r"""Do activations change alike at every width under muP, and do they not without it?

Command:   python launch.py --config=configs/coordinates.py --workdir=runs/coordinates
           and so with family=llama, optimizer=muon|lion|sgd, grow=head_dim
Hardware:  2 CPU cores; 4 minutes on a busy machine.
Expected:  "muP: flat", exit code 0; docs/mup.md has the slopes.

The width at 1 is the base shape. The rate is one at which a few steps change a lot.
"""

import ml_collections

from configs import common, llama

_PEAK_LR = {"adamw": 2e-3, "lion": 1e-3, "muon": 1e-2, "sgd": 0.3}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: family=gpt2|llama, optimizer, schedule, grow=num_heads|head_dim, tokenizer."""
    arg = common.parse_arg(
        arg,
        family="gpt2",
        optimizer="adamw",
        schedule="constant",
        grow="num_heads",
        tokenizer="bpe",
    )
    V, L = 2048, 128
    size = dict(vocab_size=V, max_len=L)
    models = {
        "gpt2": common.gpt2_model(2, 2, 32, 64, **size),
        "llama": llama.llama_model(2, 2, 2, 32, 64, 192, rope_theta=1e4, **size),
    }
    config = common.pretraining(
        common.choose("family", arg.family, models),
        objective=common.objective("causal"),
        seq_len=L,
        vocab_size=V,
        optimizer=common.optimizer(
            arg.optimizer,
            arg.schedule,
            peak_lr=common.choose("optimizer", arg.optimizer, _PEAK_LR),
            warmup_steps=0,
        ),
        batch_size=16,
        accumulate_steps=1,
        num_steps=4,
        arg=ml_collections.ConfigDict(dict(tokenizer=arg.tokenizer, sources="", debug=False)),
    )
    config.experiment = "coordinates"
    config.eval.sample_tokens = 0
    config.coordinates = dict(
        widths=(1, 2, 4, 8),  # Widths to train, as multiples of the model's own.
        grow=arg.grow,  # What a wider model has more of: num_heads, or head_dim.
        probe_rows=4,  # Rows whose activations are measured; the first of the data.
        bound=0.35,  # Largest slope of log size by log width that counts as flat.
    )
    return config
