"""How fast is a training step? `python -m benchmarks.train_step` prints one JSON line.

On a CPU: the quickstart's step, float32, beside `transformers` on eager torch with its best
attention and optimiser. On a GPU: GPT-2 124M in bfloat16, rows of 1,024, 32 a batch, beside
torch.compile of `benchmarks/torch_gpt2.py`. Both sides do forward, loss, backward, clipping, AdamW.
Ours reads packed rows, so its attention takes a mask of documents; the peer's is only causal.

On CPUs a third side is the peer with the C library's memory settings that `launch.py` makes for us.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks import sides as sides_lib
from benchmarks.sides import Side, ratio, take_turns
from lm import allocator

SHAPE = ("vocab_size", "num_layers", "num_heads", "model_dim", "seq_len", "batch_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in SHAPE:
        parser.add_argument(f"--{name}", type=int, help="the config's unless given")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--side", help="set for the processes that this one starts")
    args = parser.parse_args()
    if args.side:
        return serve(args)
    sides = {"ours": Side(__spec__.name, "ours")}
    facts = sides["ours"].facts
    shape_flags = [f"--{key}={value}" for key, value in facts["shape"].items()]
    sides["peer"] = Side(__spec__.name, "peer", shape_flags)
    if facts["platform"] == "cpu":
        name = "peer_keeping_memory"
        sides[name] = Side(__spec__.name, name, shape_flags)
    seconds = take_turns(sides, args.rounds)
    num_tokens = facts["shape"]["batch_size"] * facts["shape"]["seq_len"]
    speed = {name: round(num_tokens / statistics.median(times)) for name, times in seconds.items()}

    result = {
        "benchmark": "train_step",
        **facts,
        "cores": len(os.sched_getaffinity(0)),
        "tokens_per_second": speed["ours"],
        "peer": sides["peer"].facts["name"],
        "peer_tokens_per_second": speed["peer"],
        "ratio": ratio(seconds, "peer"),
        "rounds": args.rounds,
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "torch", "transformers")
        },
    }
    if "peer_keeping_memory" in sides:
        result["ratio_to_peer_keeping_memory"] = ratio(seconds, "peer_keeping_memory")
    if peak_flops := facts["peak_flops"]:
        result["mfu"] = round(speed["ours"] * facts["flops_per_token"] / peak_flops, 4)
    print(json.dumps(result))


def serve(args: argparse.Namespace) -> None:
    """One side, which answers with the seconds of a step."""
    step, steps_a_round, facts = (ours if args.side == "ours" else peer)(args)
    for _ in range(3):  # Compiles, and lets memory settle.
        float(step())

    def measure(_) -> float:
        start = time.perf_counter()
        for _ in range(steps_a_round):
            loss = step()
        float(loss)  # Waits for the device.
        return (time.perf_counter() - start) / steps_a_round

    sides_lib.serve(facts, measure)


def ours(args: argparse.Namespace) -> tuple[Callable, int, dict]:
    """The step of `launch.py`, from a config."""
    allocator.keep_freed_memory()
    import jax

    from configs import gpt2, quickstart
    from experiments import build, initial
    from lm.objectives.causal import causal
    from lm.train import flops

    platform = jax.default_backend()
    if platform == "cpu":
        config = quickstart.get_config("optimizer=adamw")
    else:
        config = gpt2.get_config("size=small")
        config.model.vocab_size = 50304  # A multiple of 128, as the peer has it.
        config.data.batch_size = 32
    given = {name: value for name in SHAPE if (value := getattr(args, name))}
    config.data.update({name: given.pop(name) for name in ("seq_len", "batch_size") & given.keys()})
    config.model.update(given)
    config.model.max_len = config.data.seq_len
    config.model.mlp_dim = 4 * config.model.model_dim
    config.model.head_dim = config.model.model_dim // config.model.num_heads
    shape = {name: (config.data if name in config.data else config.model)[name] for name in SHAPE}

    parts = build.make_parts(config)
    abstract = build.abstract_state(parts)
    state = initial.state(parts, config, abstract)
    compiled = build.make_step(parts, causal, config, abstract)
    rows, key = jax.device_put(random_rows(shape)), jax.random.key(0)

    def step():
        nonlocal state
        state, metrics = compiled(state, rows, key)
        return metrics["loss"]

    facts = {
        "platform": platform,
        "device": jax.devices()[0].device_kind,
        "dtype": parts.model.config.dtype,
        "attention": parts.model.config.attention,
        "shape": shape,
        "flops_per_token": build.flops_per_token(parts, causal, abstract, config.data.seq_len),
        "peak_flops": flops.total_peak_flops(jax.devices()),
    }
    return step, 1 if platform == "cpu" else 20, facts


def random_rows(shape: dict[str, int]):
    """Rows of two documents each, without padding."""
    from lm.data.rows import Rows

    B, L = shape["batch_size"], shape["seq_len"]
    tokens_BL = np.random.default_rng(0).integers(0, shape["vocab_size"], (B, L), dtype=np.int32)
    second_BL = np.broadcast_to(np.arange(L, dtype=np.int32) >= L // 2, (B, L))
    positions_BL = np.arange(L, dtype=np.int32) - np.where(second_BL, L // 2, 0)
    next_BL = np.roll(tokens_BL, -1, axis=1)
    segment_ids_BL, ids_B = 1 + second_BL.astype(np.int32), np.arange(B, dtype=np.int32)
    return Rows(tokens_BL, next_BL, segment_ids_BL, positions_BL.astype(np.int32), ids_B)


def peer(args: argparse.Namespace) -> tuple[Callable, int, dict]:
    """The same step on torch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokens_BL = torch.randint(args.vocab_size, (args.batch_size, args.seq_len), device=device)
    shape = dict(
        vocab_size=args.vocab_size,
        max_len=args.seq_len,
        num_layers=args.num_layers,
        num_heads=args.num_heads,
        width=args.model_dim,
    )
    if device == "cuda":
        from benchmarks import torch_gpt2

        step = torch_gpt2.make_step(device=device, **shape)
        targets_BL = tokens_BL.roll(-1, dims=1)
        facts = {"name": "GPT-2 written for torch.compile, bfloat16, fused AdamW"}
        return lambda: step(tokens_BL, targets_BL), 20, facts
    if args.side == "peer_keeping_memory":
        allocator.keep_freed_memory()
    facts = {"name": "transformers GPT2LMHeadModel, torch eager, sdpa, fused AdamW"}
    return transformers_step(tokens_BL, **shape), 1, facts


def transformers_step(tokens_BL, *, vocab_size, max_len, num_layers, num_heads, width) -> Callable:
    """One update of GPT-2 as most people run it on a CPU."""
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_len,
        n_embd=width,
        n_layer=num_layers,
        n_head=num_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )

    def step():
        loss = model(input_ids=tokens_BL, labels=tokens_BL).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
