"""How fast is greedy decoding? `python -m benchmarks.generation` prints a JSON line a batch size.

GPT-2 124M with random weights goes on from prompts of 128 tokens, reading them included: on a CPU
in float32, beside `transformers` with its static cache and with its default one; on a GPU in
bfloat16, where its static cache is compiled.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import time

import numpy as np

from benchmarks import sides as sides_lib
from benchmarks.sides import Side, ratio, take_turns
from lm import allocator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--prompt_len", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--batch_sizes", default="1,16", help="1,64 for a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", help="set for the processes that this one starts")
    args = parser.parse_args()
    if args.side:
        facts, measure = (ours if args.side == "ours" else peer)(args)
        return sides_lib.serve(facts, measure)
    sides = {name: Side(__spec__.name, name) for name in ("ours", "static", "dynamic")}
    for batch_size in map(int, args.batch_sizes.split(",")):
        for side in sides.values():
            side.measure(batch_size)  # Compiles.
        seconds = take_turns(sides, args.rounds, batch_size)
        result = {
            "benchmark": "generation",
            **sides["ours"].facts,
            "cores": len(os.sched_getaffinity(0)),
            "shape": {"batch_size": batch_size}
            | {name: getattr(args, name) for name in ("num_layers", "prompt_len", "new_tokens")},
            "tokens_per_second": _speed(args, batch_size, seconds["ours"]),
            "peer": "transformers GPT2LMHeadModel.generate, static cache",
            "peer_tokens_per_second": _speed(args, batch_size, seconds["static"]),
            "ratio": ratio(seconds, "static"),
            "ratio_to_peer_with_default_cache": ratio(seconds, "dynamic"),
            "rounds": args.rounds,
            "load_average": round(os.getloadavg()[0], 1),
            "versions": {
                name: importlib.metadata.version(name) for name in ("jax", "torch", "transformers")
            },
        }
        print(json.dumps(result), flush=True)


def _speed(args: argparse.Namespace, batch_size: int, seconds: list[float]) -> float:
    return round(batch_size * args.new_tokens / statistics.median(seconds), 1)


def prompts(args: argparse.Namespace, batch_size: int) -> np.ndarray:
    """Batch size x prompt length."""
    return np.random.default_rng(0).integers(0, 50257, (batch_size, args.prompt_len))


def ours(args: argparse.Namespace):
    """(batch size) -> seconds of one call."""
    allocator.keep_freed_memory()
    import jax

    from configs import gpt2
    from experiments import build
    from lm.generate import sampling
    from lm.models.cache import decoding_params
    from lm.models.families import init_params

    platform = jax.default_backend()
    config = gpt2.get_config("size=small")
    config.model.update(num_layers=args.num_layers, vocab_size=50257)
    model = build.make_model(config.model, causal=True)
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    params = decoding_params(params, model.config.dtype)

    def measure(batch_size: int) -> float:
        tokens = prompts(args, batch_size).tolist()
        start = time.perf_counter()
        new = sampling.generate(
            model,
            params,
            tokens,
            jax.random.key(0),
            vocab_size=50257,
            max_new_tokens=args.new_tokens,
            temperature=0.0,
            top_k=0,
            top_p=1.0,
            stop_ids=[],
            batch_size=batch_size,
        )
        assert all(len(row) == args.new_tokens for row in new)
        return time.perf_counter() - start

    device = jax.devices()[0].device_kind
    return {"platform": platform, "device": device, "dtype": model.config.dtype}, measure


def peer(args: argparse.Namespace):
    """The same of `transformers`."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=args.num_layers)).eval()
    model = model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    settings = dict(max_new_tokens=args.new_tokens, min_new_tokens=args.new_tokens, pad_token_id=0)
    if args.side == "static":
        settings["cache_implementation"] = "static"

    @torch.inference_mode()
    def measure(batch_size: int) -> float:
        tokens = torch.tensor(prompts(args, batch_size), device=device)
        mask = torch.ones_like(tokens)
        start = time.perf_counter()
        new = model.generate(tokens, attention_mask=mask, do_sample=False, **settings)
        assert new.cpu().shape[1] == args.prompt_len + args.new_tokens
        return time.perf_counter() - start

    return {}, measure


if __name__ == "__main__":
    main()
