"""What `benchmarks.train_step` compares with: the same models, batches and updates on torch.

Each as fast as its users would have it: on a GPU compiled, in bfloat16 by autocast, with flash
attention; on a CPU in float32, eager and compiled; everywhere with fused AdamW.
"""

import os
from collections.abc import Callable
from typing import Any

import ml_collections
import torch

Loss = Callable[[], torch.Tensor]


def make_step(name: str, config: ml_collections.ConfigDict, platform: str) -> tuple[Callable, dict]:
    """() -> the loss, on the device, after one update; and facts.

    Args:
      name: torch_gpt2, transformers, or compiled, which is compiled on a CPU too.
      config: of our side.
      platform: cpu or gpu.
    """
    on_gpu = platform == "gpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    device = "cuda" if on_gpu else "cpu"
    with torch.device(device):
        model, loss, title = MODELS[name, config.model.name](config)
    model.train()
    compiles = on_gpu or name == "compiled"
    how = "torch.compile" if compiles else "eager"
    dtype = "bfloat16 by autocast" if on_gpu else "float32"
    facts = {"name": f"{title}, {how}, {dtype}, fused AdamW"}
    # The loss alone leaves what is compiled: nobody asks for the logits.
    forward = torch.compile(loss) if compiles else loss
    return _updates(model, forward, config.optimizer, device), facts


def _updates(model: torch.nn.Module, forward: Loss, rates: ml_collections.ConfigDict, device: str):
    """Loss, gradients, clipping, AdamW with decay of the matrices alone, as on our side."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": rates.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=rates.peak_lr, betas=(rates.b1, rates.b2), eps=rates.eps, fused=True
    )

    def step():
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            value = forward()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, rates.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step


def _random_tokens(config: ml_collections.ConfigDict) -> torch.Tensor:
    shape = config.data.batch_size, config.data.seq_len
    return torch.randint(config.model.vocab_size, shape)


def _torch_gpt2(config: ml_collections.ConfigDict) -> tuple[torch.nn.Module, Loss, str]:
    from benchmarks import torch_gpt2

    c = config.model
    model = torch_gpt2.GPT2(
        vocab_size=c.vocab_size,
        max_len=c.max_len,
        num_layers=c.num_layers,
        num_heads=c.num_heads,
        width=c.model_dim,
    )
    tokens_BL = _random_tokens(config)
    targets_BL = tokens_BL.roll(-1, dims=1)
    return model, lambda: model(tokens_BL, targets_BL), "benchmarks/torch_gpt2.py"


def _gpt2(config: ml_collections.ConfigDict) -> tuple[torch.nn.Module, Loss, str]:
    import transformers

    c = config.model
    settings = transformers.GPT2Config(
        vocab_size=c.vocab_size,
        n_positions=c.max_len,
        n_embd=c.model_dim,
        n_layer=c.num_layers,
        n_head=c.num_heads,
        n_inner=c.mlp_dim,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **_common(),
    )
    return _language_model(transformers.GPT2LMHeadModel(settings), config)


def _llama(config: ml_collections.ConfigDict) -> tuple[torch.nn.Module, Loss, str]:
    import transformers

    c = config.model
    settings = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        max_position_embeddings=c.max_len,
        hidden_size=c.model_dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        tie_word_embeddings=c.tied_output,
        **_common(),
    )
    return _language_model(transformers.LlamaForCausalLM(settings), config)


def _bert(config: ml_collections.ConfigDict) -> tuple[torch.nn.Module, Loss, str]:
    import transformers

    c = config.model
    settings = transformers.BertConfig(
        vocab_size=c.vocab_size,
        max_position_embeddings=c.max_len,
        hidden_size=c.model_dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        hidden_dropout_prob=c.dropout,
        attention_probs_dropout_prob=c.dropout,
        num_labels=len(config.task.labels),
        **_common(),
    )
    model = transformers.BertForSequenceClassification(settings)
    tokens_BL = _random_tokens(config)
    labels_B = torch.randint(settings.num_labels, tokens_BL.shape[:1])
    loss = lambda: model(input_ids=tokens_BL, labels=labels_B).loss
    return model, loss, "transformers BertForSequenceClassification"


def _language_model(model, config) -> tuple[torch.nn.Module, Loss, str]:
    tokens_BL = _random_tokens(config)
    model.loss_type = "ForCausalLM"  # Where the library must guess it warns, which cuts the graph.
    loss = lambda: model(input_ids=tokens_BL, labels=tokens_BL).loss
    return model, loss, f"transformers {type(model).__name__}"


def _common() -> dict[str, Any]:
    """What all configs of `transformers` get."""
    import transformers
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Under torch.compile the library makes a mask even where none is needed (before torch 2.14),
    # which rules flash attention out. It makes none for an attention that it does not know.
    transformers.AttentionInterface.register("sdpa_without_mask", sdpa_attention_forward)
    return dict(
        attn_implementation="sdpa_without_mask",
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )


# By peer and family: config -> the model, its loss of one batch, and what it is called.
MODELS = {
    ("torch_gpt2", "gpt2"): _torch_gpt2,
    ("transformers", "gpt2"): _gpt2,
    ("compiled", "gpt2"): _gpt2,
    ("transformers", "llama"): _llama,
    ("transformers", "bert"): _bert,
}
