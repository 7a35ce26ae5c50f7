r"""Llama 2 and 3, Mistral, Qwen2 and SmolLM2: decoders of one shape.

Command:   python launch.py --config=configs/llama.py:size=smollm2-135m --workdir=runs/llama \
               --config.data.source=text --config.data.train='corpus/train/*.txt.zst' \
               --config.data.validation='corpus/validation/*.txt.zst'
Hardware:  one 80 GB GPU for smollm2-135m; `debug` takes seconds on a CPU.
Expected:  not run yet at full size; docs/big_meshes.md has size=llama2-70b on up to 4,096 devices.

Shapes are those of the published config.json files. The recipe is Llama 2's (Touvron et al. 2023,
section 2.2): 4M tokens a batch, AdamW, 2,000 steps of warmup, then a cosine to a tenth over 2T
tokens. Its rates are 3e-4 up to 13B and 1.5e-4 above; other papers' rates are not copied.
"""

import ml_collections

from configs import common

_SCALED = dict(rope_low_freq=1.0, rope_high_freq=4.0, rope_original_len=8192)
_LLAMA2 = dict(vocab_size=32000, max_len=4096, rope_theta=1e4)
_LLAMA3 = dict(vocab_size=128256, max_len=131072, rope_theta=5e5, rope_factor=8.0, **_SCALED)
_LLAMA32 = _LLAMA3 | dict(rope_factor=32.0, tied_output=True)
_MISTRAL = dict(vocab_size=32000, max_len=32768, rope_theta=1e4, window=4096)
_QWEN2 = dict(vocab_size=151936, max_len=131072, rope_theta=1e6, norm_epsilon=1e-6, qkv_bias=True)
_SMOLLM2 = dict(vocab_size=49152, max_len=8192, rope_theta=1e5, tied_output=True)
_SIZES = {  # layers, heads, key/value heads, head width, width, MLP width, and the rest
    "llama2-7b": (32, 32, 32, 128, 4096, 11008, _LLAMA2),
    "llama2-13b": (40, 40, 40, 128, 5120, 13824, _LLAMA2),
    "llama2-70b": (80, 64, 8, 128, 8192, 28672, _LLAMA2),
    "llama3-8b": (32, 32, 8, 128, 4096, 14336, _LLAMA3),
    "llama3-70b": (80, 64, 8, 128, 8192, 28672, _LLAMA3),
    "llama3-405b": (126, 128, 8, 128, 16384, 53248, _LLAMA3),
    "llama3.2-1b": (16, 32, 8, 64, 2048, 8192, _LLAMA32),
    "llama3.2-3b": (28, 24, 8, 128, 3072, 8192, _LLAMA32),
    "mistral-7b": (32, 32, 8, 128, 4096, 14336, _MISTRAL),
    "qwen2-0.5b": (24, 14, 2, 64, 896, 4864, _QWEN2 | dict(tied_output=True)),
    "qwen2-1.5b": (28, 12, 2, 128, 1536, 8960, _QWEN2 | dict(tied_output=True)),
    "qwen2-7b": (28, 28, 4, 128, 3584, 18944, _QWEN2 | dict(vocab_size=152064)),
    "smollm2-135m": (30, 9, 3, 64, 576, 1536, _SMOLLM2),
    "smollm2-360m": (32, 15, 5, 64, 960, 2560, _SMOLLM2),
    "smollm2-1.7b": (24, 32, 32, 64, 2048, 8192, _SMOLLM2 | dict(rope_theta=1.3e5)),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: size (one of the table above), objective=causal|prefix|mixture, tokenizer,
    sources=a+b, optimizer, schedule, debug; mup, the size whose rate holds under muP (docs/mup.md).
    """
    arg = common.parse_arg(
        arg,
        size="smollm2-135m",
        objective="causal",
        tokenizer="bpe",
        sources="",
        optimizer="adamw",
        schedule="cosine",
        mup="",
        debug=False,
    )
    *shape, more = common.choose("size", arg.size, _SIZES)
    model = llama_model(*shape, **more)
    seq_len = min(model["max_len"], 4096)
    batch_size = 2**22 // seq_len
    if arg.mup:
        _, num_heads, _, head_dim, width, mlp_dim, _ = common.choose("mup", arg.mup, _SIZES)
        model |= common.mup(num_heads, head_dim, width, mlp_dim)
    is_large = (model["mup_model_dim"] or model["model_dim"]) > 5120
    return common.pretraining(
        model,
        objective=common.decoder_objective(arg.objective),
        seq_len=seq_len,
        vocab_size=min(model["vocab_size"], 32000),
        optimizer=common.optimizer(
            arg.optimizer,
            arg.schedule,
            peak_lr=1.5e-4 if is_large else 3e-4,
            warmup_steps=2000,
        ),
        batch_size=batch_size,
        accumulate_steps=batch_size // 16 if arg.size == "smollm2-135m" else 1,
        num_steps=round(2e12 / 2**22),
        arg=arg,
    )


def llama_model(
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    width: int,
    mlp_dim: int,
    *,
    vocab_size: int,
    max_len: int,
    rope_theta: float,
    **more,
) -> dict:
    """The model block of a Llama; `more` holds what differs from a Llama 2."""
    shape = (num_layers, num_heads, head_dim, width, mlp_dim)
    block = dict(
        **common.model_size("llama", *shape, vocab_size=vocab_size),
        num_kv_heads=num_kv_heads,  # Heads of keys and values, each for as many query heads.
        max_len=max_len,  # Most tokens of a row.
        rope_theta=rope_theta,  # Base of the wavelengths of rotary positions.
        rope_factor=1.0,  # How many times longer Llama 3.1 makes the long wavelengths; 1: none.
        rope_low_freq=1.0,  # Waves that fit rope_original_len less often are long.
        rope_high_freq=4.0,  # Waves that fit rope_original_len more often stay.
        rope_original_len=0,  # Tokens of a row before they were stretched; 0 where none were.
        norm_epsilon=1e-5,  # Added to the mean square that a norm divides by.
        qkv_bias=False,  # Whether queries, keys and values have biases, as in Qwen2.
        tied_output=False,  # Whether the output is the embedding, transposed.
        window=0,  # Tokens that a token sees, itself included, as in Mistral; 0: all before it.
        **common.mup(),
    )
    return block | more | common.HOW_TO_RUN
