"""A GPT-2 so small that it compiles in a second, and rows for it, shared by tests."""

from lm.corpus.rows import rows_from_pieces
from lm.models.families import param_shapes
from lm.models.gpt2 import GPT2, GPT2Config

CONFIG = GPT2Config(
    vocab_size=23,
    max_len=16,
    num_layers=2,
    num_heads=2,
    head_dim=4,
    model_dim=8,
    mlp_dim=32,
    mup_model_dim=0,
    mup_num_heads=0,
    mup_head_dim=0,
    mup_mlp_dim=0,
    dropout=0.0,
    dtype="float32",
    attention="einsum",
    matmul="plain",
    remat="none",
    scan_layers=False,
)


def shapes(config=CONFIG):
    """The parameter tree as shapes."""
    return param_shapes(GPT2(config))


def rows_of(pieces, seq_len, pad_id=0):
    """Rows numbered from 0."""
    return rows_from_pieces(pieces, seq_len, pad_id, range(len(pieces)))
