"""How fast is greedy decoding? `python -m benchmarks.generation` prints JSON lines for each batch.

GPT-2 124M with random weights goes on from prompts of 128 tokens, reading them included, beside
`transformers` with its static cache and with its default one: on a CPU in float32, on a GPU in
bfloat16, where `transformers` compiles its step with the static cache. On a CPU also beside the
static cache compiled, and beside CTranslate2 (`pip install ctranslate2==4.8.5`), in float32 and in
8-bit integers; lines of a single step are the time of a call without that of its first token. All
sides read the same folder, and say whether their tokens are the same.
"""

import argparse
import functools
import hashlib
import importlib.util
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import decoder_folder, results
from benchmarks import sides as sides_lib
from benchmarks.sides import Found, Side
from lm.costs import hardware
from lm.models.parameters import num_params
from lm.system import allocator

PEERS = {
    "static": "transformers GPT2LMHeadModel.generate, static cache",
    "dynamic": "transformers GPT2LMHeadModel.generate, default cache",
    "compiled": "transformers GPT2LMHeadModel.generate, static cache, compiled",
    "ctranslate2": "CTranslate2 Generator, float32",
    "ctranslate2_int8": "CTranslate2 Generator, int8",
}
OURS = {"ours": "", "ours_int8": "8-bit integers"}
ON_GPU = ("ours", "static", "dynamic")  # Where the static cache is compiled.
# By batch size, on one H100, with these lengths.
GPU_LENGTHS = {"prompt_len": 128, "new_tokens": 256}
GPU_TARGETS = {1: {"tokens_per_second": 1500}, 64: {"tokens_per_second": 60_000}}
# Ratios on a CPU: of a whole call by peer and batch size, of a step, of reading one long prompt.
CALL_TARGETS = {
    "static": {1: 2.0, 4: 2.0, 16: 2.0},
    "ctranslate2": {1: 1.15, 4: 1.0, 16: 1.05},
}
STEP_TARGETS = {"ctranslate2_int8": {1: 1.0, 4: 1.0}}
READ_TARGETS = {"ctranslate2": 1.1}
SIZES = {"num_layers": 12, "num_heads": 12, "model_dim": 768, "vocab_size": 50257}


def main() -> None:
    args = parse()
    if args.side:
        return serve(args)
    platform = sides_lib.platform()
    on_cpu = platform == "cpu"
    args.new_tokens = args.new_tokens or (32 if on_cpu else 256)
    batch_sizes = [
        int(n) for n in (args.batch_sizes or ("1,4,16" if on_cpu else "1,64")).split(",")
    ]
    names = [name for name in args.sides.split(",") if on_cpu or name in ON_GPU]
    if importlib.util.find_spec("ctranslate2") is None:
        names = [name for name in names if not name.startswith("ctranslate2")]
    # Each with the tokens that it reads and writes; a step is what the one takes longer.
    calls = [(size, args.prompt_len, args.new_tokens) for size in batch_sizes]
    firsts = [(size, args.prompt_len, 1) for size in batch_sizes] if on_cpu else []
    reads = [(1, args.read_len, 1)] if on_cpu else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary)
        if not (folder / "model").exists():
            sizes = {name: getattr(args, name) for name in SIZES}
            decoder_folder.make(folder / "model", max_len=max_len(args), **sizes)
        flags = [f"--platform={platform}", f"--folder={folder}"]
        starts = {name: functools.partial(Side, __spec__.name, name, flags) for name in names}
        found = sides_lib.compare(
            starts,
            calls + firsts + reads,
            args.rounds,
            together=args.together or (on_cpu and not args.apart),
            num_at_once=len(starts) if args.together else 1,
        )
    found = dict(zip(calls + firsts + reads, found, strict=True))
    pairs = [
        (own, name)
        for name in names
        if name in PEERS and (own := "ours_int8" if name.endswith("int8") else "ours") in names
    ]
    for own, name in pairs:
        for call in calls:
            emit(args, platform, call, own, name, found[call])
        for call, first in zip(calls, firsts, strict=False):
            emit_step(args, call, own, name, found[call], found[first])
        for read in reads:
            emit_read(args, read, own, name, found[read])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--prompt_len", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, help="32 on a CPU, else 256, unless given")
    parser.add_argument("--read_len", type=int, default=512, help="of a prompt that is only read")
    parser.add_argument("--batch_sizes", help="1,4,16 on a CPU, else 1,64, unless given")
    parser.add_argument("--sides", default=",".join([*OURS, *PEERS]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="kept; a temporary one unless given")
    parser.add_argument("--apart", action="store_true", help="one side after the other on CPUs too")
    parser.add_argument("--together", action="store_true", help=sides_lib.TOGETHER)
    for name in ("side", "platform"):
        parser.add_argument(f"--{name}", help="set for the processes that this one starts")
    return parser.parse_args()


def max_len(args: argparse.Namespace) -> int:
    return max(1024, args.prompt_len + args.new_tokens, args.read_len + 1)


def serve(args: argparse.Namespace) -> None:
    """One side, which answers with the seconds of a call."""
    if args.side in OURS:
        return sides_lib.serve(*ours(args), sides_lib.jax_peak_bytes)
    if args.side.startswith("ctranslate2"):
        return sides_lib.serve(*ctranslate2_peer(args), sides_lib.process_peak_bytes)
    return sides_lib.serve(*peer(args), sides_lib.torch_peak_bytes)


def emit(
    args: argparse.Namespace,
    platform: str,
    call: tuple[int, int, int],
    own: str,
    name: str,
    sides: dict[str, Found],
) -> None:
    """Prints what we reached beside a peer."""
    batch_size, prompt_len, new_tokens = call
    ours, peer = sides[own], sides[name]
    lengths = {"prompt_len": prompt_len, "new_tokens": new_tokens}
    speeds = [batch_size * new_tokens / statistics.median(found.seconds) for found in (ours, peer)]
    target = {}
    if platform == "cpu":
        target = {"ratio": CALL_TARGETS.get(name, {}).get(batch_size)}
    elif lengths == GPU_LENGTHS:
        target = GPU_TARGETS.get(batch_size, {})
    _emit(
        "generation",
        args,
        own,
        name,
        sides,
        shape={"batch_size": batch_size} | lengths,
        unit="tokens_per_second",
        ours=results.rounded(speeds[0]),
        theirs=results.rounded(speeds[1]),
        ratio=sides_lib.ratio(ours, peer),
        target=target,
        compile_seconds=ours.compile_seconds,
        peer_compile_seconds=peer.compile_seconds,
        predicted_tokens_per_second=predicted(args, batch_size, ours.facts),
        **sides_lib.processor_seconds_of(ours, peer, new_tokens),
        **sides_lib.memory_of(ours, peer),
    )


def emit_step(
    args: argparse.Namespace,
    call: tuple[int, int, int],
    own: str,
    name: str,
    whole: dict[str, Found],
    first: dict[str, Found],
) -> None:
    """Prints what a step takes: a call without what it takes to its first token."""
    batch_size, prompt_len, new_tokens = call
    if new_tokens == 1:
        return
    of = lambda side, field: (
        (
            statistics.median(getattr(whole[side], field))
            - statistics.median(getattr(first[side], field))
        )
        / (new_tokens - 1)
    )
    goal = STEP_TARGETS.get(name, {}).get(batch_size)
    _emit(
        "generation/step",
        args,
        own,
        name,
        whole,
        shape={"batch_size": batch_size, "prompt_len": prompt_len, "new_tokens": new_tokens},
        unit="seconds",
        ours=results.rounded(of(own, "seconds")),
        theirs=results.rounded(of(name, "seconds")),
        ratio=round(of(name, "seconds") / of(own, "seconds"), 3),
        target={"ratio": goal},
        processor_seconds=results.rounded(of(own, "processor_seconds")),
        peer_processor_seconds=results.rounded(of(name, "processor_seconds")),
    )


def emit_read(
    args: argparse.Namespace,
    call: tuple[int, int, int],
    own: str,
    name: str,
    sides: dict[str, Found],
) -> None:
    """Prints what it takes to read a prompt."""
    ours, peer = sides[own], sides[name]
    _emit(
        "generation/read",
        args,
        own,
        name,
        sides,
        shape={"batch_size": call[0], "prompt_len": call[1]},
        unit="seconds",
        ours=results.rounded(statistics.median(ours.seconds)),
        theirs=results.rounded(statistics.median(peer.seconds)),
        ratio=sides_lib.ratio(ours, peer),
        target={"ratio": READ_TARGETS.get(name)},
        **sides_lib.processor_seconds_of(ours, peer, 1),
    )


def _emit(
    benchmark: str,
    args: argparse.Namespace,
    own: str,
    name: str,
    sides: dict[str, Found],
    *,
    shape: dict[str, int],
    target: dict[str, float | None],
    **measured: Any,
) -> None:
    sizes = {name: getattr(args, name) for name in SIZES}
    wanted = {key: value for key, value in target.items() if value is not None}
    results.emit(
        benchmark,
        device=sides[own].facts["device"],
        packages=("jax", "ctranslate2")
        if name.startswith("ctranslate2")
        else ("jax", "torch", "transformers"),
        shape=shape | sizes,
        peer=PEERS[name],
        target=wanted if sizes == SIZES else {},
        note=OURS[own],
        dtype=sides[own].facts["dtype"],
        same_tokens=sides[own].said == sides[name].said,
        rounds=args.rounds,
        **measured,
    )


def predicted(args: argparse.Namespace, batch_size: int, facts: dict[str, Any]) -> float | None:
    """At most: each new token reads all parameters, and its row's cache, which is full-sized."""
    chip = hardware.chip_of(facts["device"])
    if chip is None:
        return None
    cached = 2 * args.num_layers * args.model_dim * (args.prompt_len + args.new_tokens)
    num_bytes = facts["itemsize"] * (facts["num_params"] + batch_size * cached)
    return results.rounded(batch_size * chip.memory_bandwidth / num_bytes)


def prompts(args: argparse.Namespace, batch_size: int, prompt_len: int) -> np.ndarray:
    """Batch size x prompt length; of ids that stand for text."""
    rng = np.random.default_rng(0)
    return rng.integers(0, args.vocab_size - 1, (batch_size, prompt_len))


def digest(rows: Any) -> str:
    """Names new tokens, so that sides can be compared."""
    return hashlib.sha256(np.asarray(rows, np.int32).tobytes()).hexdigest()


def ours(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Any], str]]:
    """Facts, and (batch size, lengths) -> digest of the new tokens."""
    import jax

    from lm.generation import sampling
    from lm.loading.run import load
    from lm.models.int8 import quantize_for_decoding
    from lm.models.kv_cache import unstack_for_decoding

    run = load(args.folder / "model")
    num = num_params(run.params)
    params = unstack_for_decoding(run.params, run.model.config.dtype)
    if args.side == "ours_int8":
        params = quantize_for_decoding(params)

    def call(question: tuple[int, int, int]) -> str:
        batch_size, prompt_len, new_tokens = question
        new = sampling.generate(
            run.model,
            params,
            prompts(args, batch_size, prompt_len).tolist(),
            jax.random.key(0),
            vocab_size=args.vocab_size,
            max_new_tokens=new_tokens,
            temperature=0.0,
            top_k=0,
            top_p=1.0,
            stop_ids=[],
            batch_size=batch_size,
        )
        return digest(new)

    dtype = run.model.config.dtype
    facts = {
        "device": jax.devices()[0].device_kind,
        "dtype": dtype if args.side == "ours" else "int8",
        "itemsize": jax.numpy.dtype(dtype).itemsize,
        "num_params": num,
    }
    return facts, call


def peer(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Any], str]]:
    """The same of `transformers`."""
    import torch
    import transformers

    on_gpu = args.platform == "gpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    model = transformers.GPT2LMHeadModel.from_pretrained(args.folder / "model", dtype=dtype)
    model = model.eval().to(device)
    # No token ends a text.
    model.generation_config.eos_token_id = None
    settings = dict(do_sample=False, pad_token_id=0)
    if args.side != "dynamic":
        settings["cache_implementation"] = "static"
    if args.side == "compiled" or (args.side == "static" and on_gpu):
        # A second batch size would else be compiled for any.
        settings["compile_config"] = transformers.CompileConfig(dynamic=False)
        settings["compile_config"]._compile_all_devices = True  # On CPUs, too.

    @torch.inference_mode()
    def call(question: tuple[int, int, int]) -> str:
        batch_size, prompt_len, new_tokens = question
        tokens = torch.tensor(prompts(args, batch_size, prompt_len), device=device)
        mask = torch.ones_like(tokens)
        new = model.generate(tokens, attention_mask=mask, max_new_tokens=new_tokens, **settings)
        new = new[:, prompt_len:].cpu()
        assert new.shape == (batch_size, new_tokens)
        return digest(new)

    return {}, call


def ctranslate2_peer(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Any], str]]:
    """The same of CTranslate2, whose folder is made at the first time."""
    import ctranslate2
    import transformers
    from ctranslate2.converters import TransformersConverter

    kind = "int8" if args.side.endswith("int8") else "float32"
    folder = args.folder / f"ctranslate2-{kind}"
    if not folder.exists():
        converter = TransformersConverter(str(args.folder / "model"))
        converter.convert(str(folder), quantization=kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "model")
    generator = ctranslate2.Generator(
        str(folder),
        device="cpu",
        compute_type=kind,
        inter_threads=1,
        intra_threads=len(os.sched_getaffinity(0)),
    )

    def call(question: tuple[int, int, int]) -> str:
        batch_size, prompt_len, new_tokens = question
        rows = prompts(args, batch_size, prompt_len).tolist()
        found = generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(row) for row in rows],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        new = [row.sequences_ids[0] for row in found]
        assert all(len(row) == new_tokens for row in new)
        return digest(new)

    return {}, call


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
