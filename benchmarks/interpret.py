r"""What does looking inside a model cost? `python -m benchmarks.interpret` prints JSON lines.

    python -m benchmarks.interpret --peers=VENV/bin/python

The model has the quickstart's shape and random weights; the peers' Python has transformer_lens,
captum, transformers and torch. `capture`: one site and the logits, beside the logits alone of the
model as it was loaded. `sweep`: the residual stream patched at each layer and position, beside
TransformerLens' loop. `attributions`: integrated gradients of 50 nodes, beside captum's, which
computes all nodes as one batch. The sides take turns, each in a process of its own.
"""

import argparse
import functools
import importlib.metadata
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import results
from benchmarks import sides as sides_lib
from benchmarks.sides import Side
from lm.system import allocator

# By case: the sides, targets, what a round repeats, and what its line says.
CASES = {
    "capture": (("ours", "plain"), {"ratio": 1 / 1.10}, 50, "layers.out, beside no capture"),
    "sweep": (("ours", "transformer_lens"), {"ratio": 3.0}, 1, "layers.in, with estimates"),
    "attributions": (("ours", "captum"), {"ratio": 1.0}, 3, "50 nodes of Gauss-Legendre"),
}
_NUM_NODES = 50
_SHAPE = dict(vocab_size=2048, n_positions=256, n_embd=128, n_layer=4, n_head=2)
_LENGTHS = {"capture": 256, "sweep": 64, "attributions": 64}
_TARGET = 7  # The token whose logit is looked at, in the last place.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--peers", default="", help="the Python that has transformer_lens, captum")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=pathlib.Path, help="kept; a temporary one unless given")
    parser.add_argument("--side", help="set for the processes that this one starts")
    args = parser.parse_args()
    if args.side:
        return sides_lib.serve(*_SIDES[args.side](args), sides_lib.process_peak_bytes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary)
        if not (folder / "config.json").exists():
            _make(folder)
        for case in args.cases.split(","):
            if args.peers or CASES[case][0][1] == "plain":
                measure(case, folder, args.peers, args.rounds)


def measure(case: str, folder: pathlib.Path, peers: str, rounds: int) -> None:
    """Runs both sides of a case in turns, and prints its line."""
    names, target, num_repeats, note = CASES[case]
    flags = [f"--folder={folder}"]
    pythons = {name: {"python": peers} for name in ("transformer_lens", "captum")}
    starts = {
        name: functools.partial(Side, __spec__.name, name, flags, **pythons.get(name, {}))
        for name in names
    }
    question = {"case": case, "num_repeats": num_repeats}
    (found,) = sides_lib.compare(starts, [question], rounds, together=True)
    ours, peer = (found[name] for name in names)
    seconds = lambda side: results.rounded(statistics.median(side.seconds) / num_repeats)
    spent = sides_lib.processor_seconds_of(ours, peer, num_repeats)
    results.emit(
        f"interpret/{case}",
        device="cpu",
        packages=("jax", "flax"),
        shape={"layers": _SHAPE["n_layer"], "width": _SHAPE["n_embd"], "length": _LENGTHS[case]},
        unit="seconds",
        ours=seconds(ours),
        peer=peer.facts["name"],
        theirs=seconds(peer),
        ratio=sides_lib.ratio(ours, peer),
        target=target,
        note=note,
        processor_ratio=results.rounded(
            spent["peer_processor_seconds"] / spent["processor_seconds"]
        ),
        said=[ours.said, peer.said],
        rounds=rounds,
        **spent,
        **sides_lib.memory_of(ours, peer),
    )


def _make(folder: pathlib.Path) -> None:
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(**_SHAPE, initializer_range=0.1)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    vocab = {f"w{i}": i for i in range(_SHAPE["vocab_size"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def _ids(case: str) -> tuple[list[int], list[int]]:
    """Token ids of a clean text and of a corrupted one, which differ in one place."""
    clean = [(37 * i + 11) % _SHAPE["vocab_size"] for i in range(_LENGTHS[case])]
    return clean, [*clean[:9], 5, *clean[10:]]


def _repeat(calls: dict[str, Callable[[], Any]], question: dict[str, Any]) -> Any:
    for _ in range(question["num_repeats"]):
        said = calls[question["case"]]()
    return said


def _ours(
    args: argparse.Namespace, *, is_plain: bool
) -> tuple[dict[str, str], Callable[[Any], Any]]:
    import jax
    import numpy as np

    from lm.interpret import attributions, subject, tracing
    from lm.interpret.subject import Side as TextSide
    from lm.interpret.targets import Target
    from lm.loading import run as run_lib

    opened = subject.open_subject(args.folder)

    def text(ids: list[int]) -> subject.Text:
        ids_L = np.array(ids, np.int32)
        at_L = np.arange(len(ids), dtype=np.int32)
        inputs = dict(tokens_BL=ids_L, positions_BL=at_L, segment_ids_BL=np.ones_like(ids_L))
        return subject.Text(
            "text", {"": TextSide(ids_L, [])}, {k: x[None] for k, x in inputs.items()}
        )

    texts = {case: [text(ids) for ids in _ids(case)] for case in CASES}
    target = lambda case: Target("", _LENGTHS[case] - 1, _TARGET, None)
    model = run_lib.load(args.folder).model if is_plain else opened.model
    keep = () if is_plain else ("layers.out",)
    forward = jax.jit(functools.partial(subject.run_model, model, keep=keep))

    def capture() -> float:
        logits_BLV, _ = jax.block_until_ready(forward(opened.params, texts["capture"][0].inputs))
        return results.rounded(float(logits_BLV[0, -1, _TARGET]))

    def sweep() -> float:
        names, size = ["layers.in"], 16  # What the config has.
        made = tracing.trace(opened, *texts["sweep"], target("sweep"), names=names, chunk_size=size)
        return results.rounded(float(np.abs(made.effects["layers.in"]).sum()))

    def attribute() -> float:
        case = "attributions"
        (x_LD,) = attributions.integrated_gradients(
            opened, texts[case][0], target(case), baseline="zero", num_nodes=_NUM_NODES
        ).by_site.values()
        return results.rounded(float(np.abs(x_LD).sum()))

    calls = {"capture": capture, "sweep": sweep, "attributions": attribute}
    name = f"the model as loaded, attention {model.config.attention}" if is_plain else "ours"
    return {"name": name}, functools.partial(_repeat, calls)


def _start_torch() -> str:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return f"torch {torch.__version__}"


def _transformer_lens(args: argparse.Namespace) -> tuple[dict[str, str], Callable[[Any], Any]]:
    import torch
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    name = f"TransformerLens {importlib.metadata.version('transformer-lens')}, {_start_torch()}"
    bridge = TransformerBridge.boot_transformers(str(args.folder), device="cpu")
    clean, corrupted = (torch.tensor([ids]) for ids in _ids("sweep"))
    value = lambda logits: logits[0, -1, _TARGET]

    @torch.no_grad()
    def sweep() -> float:
        _, cache = bridge.run_with_cache(clean)
        found = patching.get_act_patch_resid_pre(bridge, corrupted, cache, value)
        return results.rounded(float((found - value(bridge(corrupted))).abs().sum()))

    return {"name": name}, functools.partial(_repeat, {"sweep": sweep})


def _captum(args: argparse.Namespace) -> tuple[dict[str, str], Callable[[Any], Any]]:
    import captum.attr
    import torch
    import transformers

    name = f"captum {importlib.metadata.version('captum')}, {_start_torch()}"
    model = transformers.GPT2LMHeadModel.from_pretrained(args.folder).eval()
    ids = torch.tensor([_ids("attributions")[0]])
    positions = model.transformer.wpe(torch.arange(ids.shape[1]))[None].detach()
    x = (model.transformer.wte(ids) + positions).detach()
    forward = lambda x: model(inputs_embeds=x - positions).logits[:, -1]
    integrate = captum.attr.IntegratedGradients(forward).attribute

    def attribute() -> float:
        found = integrate(
            x,
            torch.zeros_like(x),
            target=_TARGET,
            n_steps=_NUM_NODES,
            method="gausslegendre",
        )
        return results.rounded(float(found.abs().sum()))

    return {"name": name}, functools.partial(_repeat, {"attributions": attribute})


_SIDES = {
    "ours": functools.partial(_ours, is_plain=False),
    "plain": functools.partial(_ours, is_plain=True),
    "transformer_lens": _transformer_lens,
    "captum": _captum,
}


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
