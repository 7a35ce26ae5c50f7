"""What is measured on one GPU within eight minutes, and the tables that docs show of it."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks import predictions, results, train_cases
from lm.costs import hardware
from lm.costs.flops import peak_flops

BUDGET_SECONDS = 480
OUTPUT = pathlib.Path("docs/results", "gpu.jsonl")  # The table is beside it.
_TOGETHER_BYTES = 100e9  # What JAX may take of a card that holds all sides of every case.


class Share(NamedTuple):
    """A benchmark's part of the budget.

    seconds: after which it is stopped.
    flags: what it is told besides.
    """

    seconds: int
    flags: tuple[str, ...] = ()


_SHORT = ("--rounds=5", "--steps_a_round=10")
# By name in `benchmarks.__main__`, the most important first: the last may find no time left.
SHARES = {
    "train_step/gpt2": Share(150, (*_SHORT, "--variants=default,loss_in_blocks")),
    "train_step/bert": Share(130, _SHORT),
    "train_step/llama": Share(170, _SHORT),
    "generation": Share(150, ("--rounds=3",)),
    "check_kernels": Share(120),
    "train_step/gpt2_b64": Share(150, _SHORT),
    "loss": Share(80),
}


def flags_of(name: str, device_bytes: int | None) -> tuple[str, ...]:
    """What a benchmark is told, on a device of which JAX may take so much; None for a CPU."""
    has_sides = name.startswith("train_step") or name == "generation"
    fits = device_bytes is None or device_bytes >= _TOGETHER_BYTES
    return (*SHARES[name].flags, *(["--together"] if has_sides and fits else []))


_TITLES = {
    "train_step/gpt2": "GPT-2 124M, 32 rows of 1,024",
    "train_step/gpt2_b64": "GPT-2 124M, 64 rows of 1,024",
    "train_step/bert": "BERT-base, 256 texts of 128, dropout 0.1",
    "train_step/llama": "Llama 379M, 16 rows of 2,048",
    "generation": "GPT-2 124M, 256 tokens after 128",
    "loss/memory": "loss, vocabulary of 262,144: memory",
    "loss/time": "loss, vocabulary of 262,144: time",
}
_HEADER = ("case", "peer", "goal", "at most", "ours", "peer's", "ratio", "MFU", "GB")


def markdown(found: Sequence[dict[str, Any]], remarks: Iterable[str]) -> str:
    """The table of docs/results/gpu.md, of the lines of `results.emit` and of the kernels' check.

    `remarks` say what was not taken, and why.
    """
    checks = [line for line in found if "ok" in line]
    measured = [line for line in found if "ok" not in line]
    text = "# On one GPU\n\nWritten by `python -m benchmarks --gpu`; "
    text += "what its columns mean is in [performance.md](../performance.md#on-one-gpu).\n\n"
    if found:
        versions = {k: v for line in found for k, v in line["versions"].items()}
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        text += f"{found[0]['device']}; {named}.\n\n"
    text += _table(_HEADER, map(_cells, measured))
    if checks:
        text += f"\nKernels beside the reference: {sum(c['ok'] for c in checks)} of "
        text += f"{len(checks)} right.\n\n"
        header = ("case", "kernel", "right", "ms", "reference's ms", "largest error")
        text += _table(header, map(_check_cells, checks))
    return text + "".join(f"\n{remark}\n" for remark in remarks)


def predicted(kind: str) -> str:
    """The table of predictions of all training cases on a GPU of this kind; nothing is run."""
    chip = hardware.chip_of(kind)
    if chip is None:
        raise SystemExit(
            f"no bandwidth is known of {kind!r}; choose {[c.name for c in hardware.CHIPS]}"
        )
    rows = []
    for title, case, variant, changes in _PREDICTED:
        config = train_cases.config_of(case, dict.fromkeys(train_cases.SIZES), variant)
        config.model.update(changes)
        step, flops_per_token = predictions.step(config, chip)
        num_tokens = config.data.batch_size * config.data.seq_len
        parts = [step.products, step.attention, step.passes, step.seconds]
        rate = num_tokens / step.seconds
        rows.append(
            [
                title,
                *(f"{1e3 * seconds:.1f}" for seconds in parts),
                f"{rate:,.0f}",
                f"{rate * flops_per_token / peak_flops(kind):.0%}",
                f"{step.num_random / 1e9:.1f}",
            ]
        )
    header = ("case", "products", "attention", "passes", "ms", "tokens/s at most", "MFU")
    return _table((*header, "billions of random numbers"), rows)


_PREDICTED = (
    (_TITLES["train_step/gpt2"], "gpt2", "default", {}),
    ("the same, the loss in 8 blocks", "gpt2", "loss_in_blocks", {}),
    (_TITLES["train_step/gpt2_b64"], "gpt2_b64", "default", {}),
    (_TITLES["train_step/bert"], "bert", "default", {}),
    ("the same without dropout", "bert", "default", {"dropout": 0.0}),
    ("and by `einsum`", "bert", "default", {"dropout": 0.0, "attention": "einsum"}),
    (_TITLES["train_step/llama"], "llama", "default", {}),
)


def _cells(line: dict[str, Any]) -> list[str]:
    unit = next(unit for unit in results.UNITS if unit in line)
    wanted, met = results.wanted(line), results.met(line)
    title = _TITLES.get(line["benchmark"], line["benchmark"])
    if rows := line["shape"].get("batch_size") if line["benchmark"] == "generation" else None:
        title += f", {rows} at once"
    if line.get("variant", "default") != "default":
        title += f", `{line['variant']}`"
    both = lambda key, shown: " / ".join(
        shown(line[name]) for name in (key, f"peer_{key}") if line.get(name) is not None
    )
    return [
        title,
        line["peer"] or "",
        wanted and f"{wanted}: {'met' if met else '**missed**'}",
        results.shown("tokens_per_second", line.get("predicted_tokens_per_second")),
        results.shown(unit, line[unit]),
        results.shown(unit, line[f"peer_{unit}"]),
        results.shown("ratio", line["ratio"]),
        both("mfu", lambda x: f"{x:.0%}"),
        both("peak_bytes", lambda x: f"{x / 1e9:.1f}"),
    ]


def _check_cells(line: dict[str, Any]) -> list[str]:
    if "error" in line:
        return [line["case"], line["kernel"], f"no: {line['error'][:100]}", "", "", ""]
    times = [f"{1e3 * line[key]:.2f}" for key in ("seconds", "peer_seconds")]
    right = "yes" if line["ok"] else "**no**"
    return [line["case"], line["kernel"], right, *times, f"{max(line['errors'].values()):.2g}"]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
