"""GPT-2 in plain PyTorch: the baseline that benchmarks compare with on a GPU.

Written for speed under `torch.compile`: fused q, k, v and flash attention. Pre-norm, learned
positions, tanh GELU, biases, tied output and no dropout, as our configs have it.

Dimension key:
  B batch    L length    D model width    H heads    K head width    V vocabulary
"""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and added to the residual stream."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BLD):
        B, L, D = x_BLD.shape
        qkv_BLHK = self.qkv(self.attention_norm(x_BLD)).view(B, L, 3 * self.num_heads, -1)
        q_BHLK, k_BHLK, v_BHLK = qkv_BLHK.transpose(1, 2).chunk(3, dim=1)
        o_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        x_BLD = x_BLD + self.out(o_BHLK.transpose(1, 2).reshape(B, L, D))
        h_BLF = F.gelu(self.mlp_in(self.mlp_norm(x_BLD)), approximate="tanh")
        return x_BLD + self.mlp_out(h_BLF)


class GPT2(nn.Module):
    """B x L token ids and targets -> their mean cross-entropy in nats."""

    def __init__(self, *, vocab_size, max_len, num_layers, num_heads, width):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_len, width)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens_BL, targets_BL):
        positions_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
        x_BLD = self.tokens(tokens_BL) + self.positions(positions_L)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        logits_BLV = F.linear(self.final_norm(x_BLD), self.tokens.weight)
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), targets_BL.flatten())
