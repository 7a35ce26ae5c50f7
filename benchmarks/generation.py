"""How fast is greedy decoding? `python -m benchmarks.generation` prints JSON lines for each batch.

GPT-2 124M with random weights goes on from prompts of 128 tokens, reading them included, beside
`transformers` with its static cache and with its default one: on a CPU in float32, on a GPU in
bfloat16, where `transformers` compiles its step with the static cache.
"""

import argparse
import functools
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks import sides as sides_lib
from benchmarks.sides import Found, Side
from lm.costs import hardware
from lm.models.factory import make_model
from lm.models.parameters import num_params
from lm.system import allocator

PEERS = {"static": "static cache", "dynamic": "default cache"}
# By batch size, on one H100, with these lengths.
GPU_LENGTHS = {"prompt_len": 128, "new_tokens": 256}
TARGETS = {1: {"tokens_per_second": 1500}, 64: {"tokens_per_second": 60_000}}
SIZES = {"num_layers": 12, "num_heads": 12, "model_dim": 768, "vocab_size": 50257}


def main() -> None:
    args = parse()
    if args.side:
        return serve(args)
    platform = sides_lib.platform()
    on_cpu = platform == "cpu"
    args.new_tokens = args.new_tokens or (64 if on_cpu else 256)
    batch_sizes = [int(n) for n in (args.batch_sizes or ("1,16" if on_cpu else "1,64")).split(",")]
    flags = [f"--platform={platform}", f"--new_tokens={args.new_tokens}"]
    starts = {
        name: functools.partial(Side, __spec__.name, name, flags) for name in ("ours", *PEERS)
    }
    together = args.together or (on_cpu and not args.apart)
    at_once = len(starts) if args.together else 1
    found = sides_lib.compare(
        starts, batch_sizes, args.rounds, together=together, num_at_once=at_once
    )
    for batch_size, sides in zip(batch_sizes, found, strict=True):
        for peer in PEERS:
            emit(args, platform, batch_size, peer, sides["ours"], sides[peer])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--prompt_len", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, help="64 on a CPU, else 256, unless given")
    parser.add_argument("--batch_sizes", help="1,16 on a CPU, else 1,64, unless given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="one side after the other on CPUs too")
    parser.add_argument("--together", action="store_true", help=sides_lib.TOGETHER)
    for name in ("side", "platform"):
        parser.add_argument(f"--{name}", help="set for the processes that this one starts")
    return parser.parse_args()


def serve(args: argparse.Namespace) -> None:
    """One side, which answers with the seconds of a call."""
    if args.side == "ours":
        return sides_lib.serve(*ours(args), sides_lib.jax_peak_bytes)
    return sides_lib.serve(*peer(args), sides_lib.torch_peak_bytes)


def emit(
    args: argparse.Namespace,
    platform: str,
    batch_size: int,
    name: str,
    ours: Found,
    peer: Found,
) -> None:
    """Prints what we reached beside a peer."""
    lengths = {"prompt_len": args.prompt_len, "new_tokens": args.new_tokens}
    sizes = {name: getattr(args, name) for name in SIZES}
    speeds = [
        batch_size * args.new_tokens / statistics.median(found.seconds) for found in (ours, peer)
    ]
    target = {}
    if platform == "cpu" and sizes == SIZES:
        target = {"ratio": 1.0}
    elif (sizes, lengths) == (SIZES, GPU_LENGTHS) and batch_size in TARGETS:
        target = TARGETS[batch_size]
    results.emit(
        "generation",
        device=ours.facts["device"],
        packages=("jax", "torch", "transformers"),
        shape={"batch_size": batch_size} | lengths | sizes,
        unit="tokens_per_second",
        ours=results.rounded(speeds[0]),
        peer=f"transformers GPT2LMHeadModel.generate, {PEERS[name]}",
        theirs=results.rounded(speeds[1]),
        ratio=sides_lib.ratio(ours, peer),
        target=target,
        note="",
        dtype=ours.facts["dtype"],
        compile_seconds=ours.compile_seconds,
        peer_compile_seconds=peer.compile_seconds,
        rounds=args.rounds,
        predicted_tokens_per_second=predicted(args, batch_size, ours.facts),
        **sides_lib.memory_of(ours, peer),
    )


def predicted(args: argparse.Namespace, batch_size: int, facts: dict[str, Any]) -> float | None:
    """At most: each new token reads all parameters, and its row's cache, which is full-sized."""
    chip = hardware.chip_of(facts["device"])
    if chip is None:
        return None
    cached = 2 * args.num_layers * args.model_dim * (args.prompt_len + args.new_tokens)
    num_bytes = facts["itemsize"] * (facts["num_params"] + batch_size * cached)
    return results.rounded(batch_size * chip.memory_bandwidth / num_bytes)


def prompts(args: argparse.Namespace, batch_size: int) -> np.ndarray:
    """Batch size x prompt length."""
    return np.random.default_rng(0).integers(0, args.vocab_size, (batch_size, args.prompt_len))


def made(args: argparse.Namespace) -> tuple[Any, Any]:
    """A model of these sizes, and random parameters."""
    import jax

    from configs import gpt2
    from lm.models.families import init_params

    config = gpt2.get_config("size=small")
    config.model.update({name: getattr(args, name) for name in SIZES})
    config.model.update(
        head_dim=args.model_dim // args.num_heads,
        mlp_dim=4 * args.model_dim,
        max_len=max(config.model.max_len, args.prompt_len + args.new_tokens),
    )
    model = make_model(config.model, causal=True)
    return model, jax.jit(lambda: init_params(model, jax.random.key(0)))()


def ours(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[int], None]]:
    """Facts, and (batch size) -> None, after one call."""
    import jax

    from lm.generation import sampling
    from lm.models.kv_cache import unstack_for_decoding

    model, params = made(args)
    params = unstack_for_decoding(params, model.config.dtype)

    def run(batch_size: int) -> None:
        tokens = prompts(args, batch_size).tolist()
        new = sampling.generate(
            model,
            params,
            tokens,
            jax.random.key(0),
            vocab_size=args.vocab_size,
            max_new_tokens=args.new_tokens,
            temperature=0.0,
            top_k=0,
            top_p=1.0,
            stop_ids=[],
            batch_size=batch_size,
        )
        assert all(len(row) == args.new_tokens for row in new)

    facts = {
        "device": jax.devices()[0].device_kind,
        "dtype": model.config.dtype,
        "itemsize": jax.numpy.dtype(model.config.dtype).itemsize,
        "num_params": num_params(params),
    }
    return facts, run


def peer(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[int], None]]:
    """The same of `transformers`."""
    import torch
    import transformers

    on_gpu = args.platform == "gpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.GPT2Config(
        vocab_size=args.vocab_size,
        n_positions=max(1024, args.prompt_len + args.new_tokens),
        n_embd=args.model_dim,
        n_layer=args.num_layers,
        n_head=args.num_heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    with torch.device(device):
        model = transformers.GPT2LMHeadModel(config).eval().to(dtype)
    settings = dict(max_new_tokens=args.new_tokens, do_sample=False, pad_token_id=0)
    if args.side == "static":
        settings["cache_implementation"] = "static"
        if on_gpu:  # A second batch size would else be compiled for any.
            settings["compile_config"] = transformers.CompileConfig(dynamic=False)

    @torch.inference_mode()
    def run(batch_size: int) -> None:
        tokens = torch.tensor(prompts(args, batch_size), device=device)
        new = model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
        assert new.cpu().shape[1] == args.prompt_len + args.new_tokens

    return {}, run


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
