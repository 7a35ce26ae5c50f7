"""How fast is a training step? `python -m benchmarks.train_step` prints a JSON line a peer.

    python -m benchmarks.train_step --case=llama --variants=default,scanned

A case is a shape (`benchmarks.train_cases`), by default the quickstart on a CPU and GPT-2 124M on a
GPU. All sides do forward, loss, backward, clipping, AdamW: ours on rows of two documents, so that
its attention keeps them apart, the peers' (`benchmarks.train_peers`) on rows that are only causal.
On a CPU every case runs in float32. `--variants=default,muon` measures ways to run a case, each
beside the peers and beside the first; `--peers=` that alone.
"""

import argparse
import functools
import statistics

from benchmarks import results, train_cases
from benchmarks import sides as sides_lib
from benchmarks.sides import Found, Side


def main() -> None:
    args = parse()
    if args.side:
        return serve(args)
    platform = sides_lib.platform()
    on_cpu = platform == "cpu"
    args.case = args.case or ("quickstart" if on_cpu else "gpt2")
    args.steps_a_round = args.steps_a_round or (3 if on_cpu else 20)
    variants = args.variants.split(",")
    peers = train_cases.CASES[args.case].peers
    peers = peers if args.peers is None else [p for p in peers if p in args.peers.split(",")]
    flags = [f"--case={args.case}", f"--platform={platform}"]
    starts = {
        name: functools.partial(Side, __spec__.name, name, flags)
        for name in (*(f"ours/{variant}" for variant in variants), *peers)
    }
    together = args.together or (on_cpu and not args.apart)
    at_once = len(starts) if args.together else 1
    (found,) = sides_lib.compare(
        starts, [args.steps_a_round], args.rounds, together=together, num_at_once=at_once
    )
    for variant in variants:
        first = [f"ours/{variants[0]}"] if variant != variants[0] else []
        for peer in (*first, *peers):
            emit(args, platform, variant, found[f"ours/{variant}"], found[peer])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=train_cases.CASES)
    for name in train_cases.SIZES:
        parser.add_argument(f"--{name}", type=int, help="the case's unless given")
    parser.add_argument("--variants", default="default", help=", ".join(train_cases.VARIANTS))
    parser.add_argument("--peers", help="of the case's, all unless given")
    parser.add_argument("--documents", type=int, default=2, help="of each of our rows")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps_a_round", type=int, help="3 on a CPU, else 20, unless given")
    parser.add_argument("--apart", action="store_true", help="one side after the other on CPUs too")
    parser.add_argument("--together", action="store_true", help=sides_lib.TOGETHER)
    for name in ("side", "platform"):
        parser.add_argument(f"--{name}", help="set for the processes that this one starts")
    return parser.parse_args()


def sizes_of(args: argparse.Namespace) -> dict[str, int | None]:
    """Of the flags, what is None where it was not given."""
    return {name: getattr(args, name) for name in train_cases.SIZES}


def serve(args: argparse.Namespace) -> None:
    """One side, which answers with the seconds of so many steps."""
    name, _, variant = args.side.partition("/")
    config = train_cases.config_of(args.case, sizes_of(args), variant or "default")
    if name == "ours":
        step, facts = train_cases.make_step(config, args.documents)
        facts["name"] = args.side
        peak_bytes = sides_lib.jax_peak_bytes
    else:
        from benchmarks import train_peers

        step, facts = train_peers.make_step(name, config, args.platform)
        peak_bytes = sides_lib.torch_peak_bytes

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            loss = step()
        float(loss)  # Waits for the device.

    sides_lib.serve(facts, run, peak_bytes, settle=lambda: run(1))


def emit(args: argparse.Namespace, platform: str, variant: str, ours: Found, peer: Found) -> None:
    """Prints what a variant reached beside a peer."""
    sizes, case = sizes_of(args), train_cases.CASES[args.case]
    shape = train_cases.shape_of(train_cases.config_of(args.case, sizes, variant))
    num_tokens = args.steps_a_round * shape["batch_size"] * shape["seq_len"]
    speeds = [num_tokens / statistics.median(found.seconds) for found in (ours, peer)]
    more = {}
    if peak_flops := ours.facts["peak_flops"]:
        shares = [speed * ours.facts["flops_per_token"] / peak_flops for speed in speeds]
        more = {"mfu": results.rounded(shares[0]), "peer_mfu": results.rounded(shares[1])}
    if predicted := ours.facts["predicted_seconds"]:
        at_most = shape["batch_size"] * shape["seq_len"] / predicted
        more["predicted_tokens_per_second"] = results.rounded(at_most)
    as_is = platform == case.platform and not any(sizes.values())
    results.emit(
        f"train_step/{args.case}",
        device=ours.facts["device"],
        packages=("jax", "torch", "transformers"),
        shape=shape,
        unit="tokens_per_second",
        ours=round(speeds[0]),
        peer=peer.facts["name"],
        theirs=round(speeds[1]),
        ratio=sides_lib.ratio(ours, peer),
        target=case.target if as_is and not is_ours(peer) else {},
        note="" if variant == "default" else f"{variant}.",
        variant=variant,
        documents=args.documents,
        dtype=ours.facts["dtype"],
        attention=ours.facts["attention"],
        flops_per_token=ours.facts["flops_per_token"],
        compile_seconds=ours.compile_seconds,
        peer_compile_seconds=peer.compile_seconds,
        rounds=args.rounds,
        **sides_lib.processor_seconds_of(ours, peer, args.steps_a_round),
        **sides_lib.memory_of(ours, peer),
        **more,
    )


def is_ours(found: Found) -> bool:
    """Whether this is no peer but another variant."""
    return found.facts["name"].startswith("ours/")


if __name__ == "__main__":
    main()
