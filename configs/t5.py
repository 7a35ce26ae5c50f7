r"""T5 (Raffel et al. 2020) and T5 1.1 (Shazeer 2020), by span corruption.

Command:   python launch.py --config=configs/t5.py:size=base --workdir=runs/t5 \
               --config.data.source=text --config.data.train='corpus/train/*.txt.zst' \
               --config.data.validation='corpus/validation/*.txt.zst'
Hardware:  one 80 GB GPU for size=base; `debug` takes seconds on a CPU.
Expected:  not run yet at full size; docs/big_meshes.md has size=11b on up to 4,096 devices.

Rows of 568 tokens become 511 read and 114 written ones, as in the paper's section 3.1.4, whose
inputs end with one more token. Rates are its section 3.1.2: Adafactor at 1/sqrt(max(step, 10^4)),
but that the first 10^4 steps rise to 0.01 here and stay there in the paper. `objective=ul2` mixes
denoisers as UL2 does (Tay et al. 2023, table 1), without its mode tokens. The paper's tokenizer is
a unigram model: `tokenizer=unigram` trains one, which takes minutes where BPE takes seconds.
"""

import ml_collections

from configs import common

_SHAPES = {  # layers, heads, head width, width, MLP width
    "1.0": {
        "small": (6, 8, 64, 512, 2048),
        "base": (12, 12, 64, 768, 3072),
        "large": (24, 16, 64, 1024, 4096),
        "3b": (24, 32, 128, 1024, 16384),
        "11b": (24, 128, 128, 1024, 65536),
    },
    "1.1": {
        "small": (8, 6, 64, 512, 1024),
        "base": (12, 12, 64, 768, 2048),
        "large": (24, 16, 64, 1024, 2816),
        "3b": (24, 32, 64, 2048, 5120),
        "11b": (24, 64, 64, 4096, 10240),
    },
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: size=small|base|large|3b|11b, version=1.0|1.1, objective=span|prefix|ul2, tokenizer,
    sources=a+b, optimizer, schedule, debug.
    """
    arg = common.parse_arg(
        arg,
        size="base",
        version="1.1",
        objective="span",
        tokenizer="bpe",
        sources="",
        optimizer="adafactor",
        schedule="rsqrt",
        debug=False,
    )
    shapes = common.choose("version", arg.version, _SHAPES)
    shape = common.choose("size", arg.size, shapes)
    return common.pretraining(
        t5_model(*shape, version=arg.version, vocab_size=32128),
        objective=common.choose_by_kind("objective", arg.objective, objectives()),
        seq_len=568,
        vocab_size=32100,
        num_sentinels=100,
        optimizer=common.optimizer(
            arg.optimizer, arg.schedule, peak_lr=0.01, warmup_steps=10_000, clip_norm=0.0
        ),
        batch_size=128,
        accumulate_steps=2,
        num_steps=2**19,
        arg=arg,
    )


def span_corruption(noise_density: float = 0.15, mean_span_length: float = 3.0) -> dict:
    """The objective block of the paper."""
    return common.objective("span_corruption") | dict(
        noise_density=noise_density,  # Share of a row's tokens that is to be predicted.
        mean_span_length=mean_span_length,  # Mean length of a predicted span, in tokens.
    )


def objectives() -> dict[str, dict]:
    """Objective blocks by the names that `objective=` has for them."""
    ul2 = common.mixture(  # UL2's seven denoisers are these three kinds.
        regular_3=span_corruption(0.15, 3.0),
        regular_8=span_corruption(0.15, 8.0),
        extreme_3=span_corruption(0.5, 3.0),
        extreme_8=span_corruption(0.5, 8.0),
        extreme_64=span_corruption(0.15, 64.0),
        extreme_half_64=span_corruption(0.5, 64.0),
        sequential=common.prefix(suffix_share=0.25),
    )
    return {"span": span_corruption(), "prefix": common.prefix(), "ul2": ul2}


def t5_model(
    num_layers: int,
    num_heads: int,
    head_dim: int,
    width: int,
    mlp_dim: int,
    *,
    version: str,
    vocab_size: int,
) -> dict:
    """The model block of a T5; 1.1 has a gated MLP, an output of its own and no dropout."""
    shape = (num_layers, num_heads, head_dim, width, mlp_dim)
    return dict(
        **common.model_size("t5", *shape, vocab_size=vocab_size),
        num_buckets=32,  # Of relative positions, each with a bias for each head.
        max_distance=128,  # Tokens from which on all distances share the last bucket.
        gated=version == "1.1",  # Whether MLPs are GELU-gated; else they have a ReLU.
        tied_output=version == "1.0",  # Whether the output is the embedding, scaled.
        **common.with_dropout(0.1 if version == "1.0" else 0.0),
    )
