"""What docs/results/inside.md and its picture say of inside.json.

Dimension key: N layers, H heads, T checkpoints.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from lm.system import atomic_files

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
PAGE, DATA, PICTURE = (_RESULTS / f"inside.{suffix}" for suffix in ("md", "json", "png"))
LAST_STEP = {"quickstart": 300, "grokking": 2200}
GROKKING_STEPS = (900, 2200)
# The residual stream before a layer, what attention wrote, its heads, and what the MLP wrote.
SITES = (
    "body/layers.in",
    "body/layers/attention.out",
    "body/layers/attention/out.in",
    "body/layers/mlp.out",
)
_POSITIONS = ("start", "first number", "second number", "end")
_PAGE = """# Inside two models while they learn

Written by `python -m benchmarks.quality.inside runs/inside` from [inside.json](inside.json), never
by hand. One seed each, on {hardware}.

![How heads come to copy, and where a sum stands](inside.png)

## Which head of the quickstart copies?

{copying}

| step | highest score | head | highest attention to the token before | first loss | second loss |
| --- | --- | --- | --- | --- | --- |
{heads}

A score is attention, from a token of the second reading of 32 random tokens, to the one behind it
in the first (`what=induction` of [interpret.md](../interpret.md)); a head that attends to all it
sees alike has {chance:.4f}.

## Where does the grokking model compute its sum?

It reads a start, two numbers and an end, behind which a head answers. Two texts differ in the first
number; a patch puts what one has at a place into the other. Shown is which share of the difference
between the logits of both sums comes back, on average over {num_pairs} pairs.

{sums}

{tables}

## Commands

```bash
{commands}
python -m benchmarks.quality.inside runs/inside
```
"""
Results = dict[str, Any]


def commands(root: str) -> dict[str, str]:
    """Name of a run -> the command that trains it."""
    every = lambda n: f"--config.checkpoint.every_steps={n} --config.checkpoint.keep_every={n}"
    last = LAST_STEP["grokking"]
    return {
        "quickstart": f"python launch.py --config=configs/quickstart.py {every(10)} "
        f"--workdir={root}/quickstart",
        "grokking": f"python launch.py --config=configs/grokking.py {every(100)} "
        f"--config.train.num_steps={last} --workdir={root}/grokking",
    }


def text_of(results: Results) -> str:
    """The page."""
    found = results["induction"]
    return _PAGE.format(
        hardware=results["hardware"],
        copying=_of_copying(found),
        heads="\n".join(_head_line(found, t) for t in range(4, len(found["steps"]), 5)),
        chance=_CHANCE,
        num_pairs=results["num_pairs"],
        sums="\n".join(f"- {line}" for line in _of_sums(results["grokking"])),
        tables="\n\n".join(_sum_table(one) for one in results["grokking"]),
        commands="\n".join(commands("runs/inside").values()),
    )


# Of queries 32 to 63, each of which sees itself and all before.
_CHANCE = float(np.mean(1 / np.arange(33, 65)))


def _of_copying(found: dict[str, Any]) -> str:
    last_NH = np.array(found["copying_NH"][-1])
    n, h = np.unravel_index(last_NH.argmax(), last_NH.shape)
    gain = found["first_loss"][-1] - found["second_loss"][-1]
    if last_NH.max() < 2 * _CHANCE:
        return (
            f"None, after {found['steps'][-1]} steps: the highest score of any head is "
            f"{last_NH.max():.4f} (layer {n}, head {h}), where chance is {_CHANCE:.4f}, and a "
            f"second reading costs {gain:.2f} nats a token less than the first."
        )
    return (
        f"Head {h} of layer {n}: after {found['steps'][-1]} steps its score is "
        f"{last_NH.max():.4f}, where chance is {_CHANCE:.4f}, and a second reading costs "
        f"{gain:.2f} nats a token less than the first."
    )


def _head_line(found: dict[str, Any], t: int) -> str:
    copying_NH, previous_NH = (np.array(found[f"{name}_NH"][t]) for name in ("copying", "previous"))
    n, h = np.unravel_index(copying_NH.argmax(), copying_NH.shape)
    m, g = np.unravel_index(previous_NH.argmax(), previous_NH.shape)
    cells = [
        f"{found['steps'][t]}",
        f"{copying_NH.max():.4f}",
        f"layer {n}, head {h}",
        f"{previous_NH.max():.4f} (layer {m}, head {g})",
        *(f"{found[name][t]:.2f}" for name in ("first_loss", "second_loss")),
    ]
    return f"| {' | '.join(cells)} |"


def _of_sums(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in found:
        attention_NL, mlp_NL = (np.array(one["patches"][SITES[i]]) for i in (1, 3))
        n, h = np.unravel_index(
            np.argmax(one["patches"][SITES[2]]), np.shape(one["patches"][SITES[2]])
        )
        lines.append(
            f"Step {one['step']}, {one['accuracy']:.3f} of the sums right: at the end, what "
            f"attention wrote brings {_by_layer(attention_NL[:, -1])} back, the MLPs "
            f"{_by_layer(mlp_NL[:, -1])}; of single heads head {h} of layer {n} brings most, "
            f"{np.max(one['patches'][SITES[2]]):.2f}."
        )
    return lines


def _by_layer(shares_N: np.ndarray) -> str:
    return " and ".join(f"{x:.2f} (layer {n})" for n, x in enumerate(shares_N))


def _sum_table(one: dict[str, Any]) -> str:
    rows = [
        [f"step {one['step']}", *_POSITIONS],
        ["---"] * 5,
        *(
            [f"`{site.removeprefix('body/')}` {n}", *(f"{x:.2f}" for x in row)]
            for site, n, row in _over_positions(one)
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _over_positions(one: dict[str, Any]) -> Iterator[tuple[str, int, list[float]]]:
    """Yields sites with a layer each, but for the heads, and what patches bring back there."""
    for site in (SITES[0], SITES[1], SITES[3]):
        for n, row in enumerate(one["patches"][site]):
            yield site, n, row


def digest(results: Results) -> str:
    """What the picture says that it was drawn from."""
    return hashlib.sha256(json.dumps(results).encode()).hexdigest()


def draw(results: Results, path: pathlib.Path) -> None:
    """Draws how heads come to copy, and where a sum stands."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13, 7.4))
    grid = figure.add_gridspec(2, 6)
    upper = [figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3)]
    lower = [figure.add_subplot(grid[1, 3 * i : 3 * i + 3]) for i in range(2)]
    _draw_induction(upper, results["induction"])
    _draw_grokking(lower, results["grokking"])
    for axis in upper:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Description": digest(results)})


def _draw_induction(axes, found: dict[str, Any]) -> None:
    colors = ("#1f5f99", "#b5512e", "#4a9c6d", "#8a5fb0")
    titles = {
        "copying_NH": "Attention to what followed before",
        "previous_NH": "Attention to the token before",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=False):
        scores_TNH = np.array(found[name])
        for n, h in np.ndindex(scores_TNH.shape[1:]):
            style = dict(color=colors[n % 4], linestyle=("-", "--")[h % 2])
            axis.plot(found["steps"], scores_TNH[:, n, h], label=f"layer {n}, head {h}", **style)
        axis.set(title=title, xlabel="step", ylabel="mean probability", ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    for name, color in (("first_loss", "#444444"), ("second_loss", "#b5512e")):
        axes[2].plot(
            found["steps"], found[name], color=color, label=name.replace("_", " reading, ")
        )
    axes[2].set(title="Random tokens, read twice", xlabel="step", ylabel="nats a token")
    axes[2].legend(frameon=False, fontsize=8)


def _draw_grokking(axes, found: list[dict[str, Any]]) -> None:
    for axis, one in zip(axes, found, strict=False):
        what = lambda site: site.split("/")[-1].replace("layers.in", "stream into").split(".")[0]
        rows = [row for _, _, row in _over_positions(one)]
        names = [f"{what(site)} {n}" for site, n, _ in _over_positions(one)]
        axis.imshow(rows, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
        for (i, j), value in np.ndenumerate(rows):
            axis.text(
                j,
                i,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > 0.6 else "black",
            )
        axis.set(
            title=f"Share that a patch brings back, step {one['step']}",
            xticks=range(4),
            xticklabels=_POSITIONS,
            yticks=range(len(names)),
            yticklabels=names,
        )


def write(results: Results) -> None:
    """Writes the data, the picture and the page."""
    atomic_files.write(DATA, json.dumps(results, ensure_ascii=False) + "\n")
    draw(results, PICTURE)
    atomic_files.write(PAGE, text_of(results))
