"""What each look computes of texts, and how it is shown.

Dimension key: N layers, L length, H heads, M key length, C cells.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from experiments.wiring.look_inputs import Found, Settings, check_room
from lm.errors import UserError
from lm.interpret import attention_maps, page, token_losses
from lm.interpret.cells import over_cells
from lm.interpret.subject import Subject, Text


def _attention(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    check_room(subject, texts, attention_maps.attention_sites)
    return [_attention_of(subject, text, given["layers"], given["heads"]) for text in texts]


def _attention_of(
    subject: Subject, text: Text, layers: Sequence[int], heads: Sequence[int]
) -> Found:
    arrays, blocks = {}, []
    for name, probs_NHLM in attention_maps.attention_maps(subject, text).items():
        N, H = probs_NHLM.shape[:2]
        chosen = [_chosen("layers", layers, N), _chosen("heads", heads, H)]
        arrays[name] = probs_NHLM[np.ix_(*chosen)]
        queries, keys = attention_maps.sides_of(text, name)
        over_keys = over_cells(probs_NHLM, keys.cells, how="sum", axis=3)
        cells_NHCC = over_cells(over_keys, queries.cells, how="mean", axis=2)
        maps = {}
        for n in chosen[0]:
            maps[f"layer {n}, mean of heads"] = cells_NHCC[n, chosen[1]].mean(axis=0)
            maps |= {f"layer {n}, head {h}": cells_NHCC[n, h] for h in chosen[1]}
        about = (
            "Probabilities of what a query (row) attends to (column), before dropout. Of a cell of "
            "several tokens, the sum over keys and the mean over queries."
        )
        blocks.append(page.matrix(name, queries.cells, keys.cells, maps, about))
    return Found(
        text.name, {"sites": {k: list(x.shape) for k, x in arrays.items()}}, arrays, blocks
    )


def _token_losses(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    found = [_losses_of(subject, text) for text in texts]
    total = math.fsum(one.values["loss_sum"] for one in found)
    count = sum(one.values["num_tokens"] for one in found)
    print(f"loss {total / max(count, 1):.6f} nats a token, of {count:,} tokens")
    return found


def _losses_of(subject: Subject, text: Text) -> Found:
    scores = token_losses.token_losses(subject, text)
    cells = text.written.cells
    by_cell = functools.partial(over_cells, cells=cells, axis=0)
    measures = [
        page.measure("loss", by_cell(scores.loss_L, how="sum"), unit="nats"),
        page.measure("entropy", by_cell(scores.entropy_L, how="mean"), unit="nats"),
        page.measure("rank", by_cell(scores.rank_L, how="mean")),
    ]
    total, count = float(np.nansum(scores.loss_L)), int(np.sum(~np.isnan(scores.loss_L)))
    values = {"loss_sum": total, "num_tokens": count, "loss": total / max(count, 1)}
    title = f"{count} tokens, {values['loss']:.4f} nats each, {total:.2f} in all"
    arrays = {"loss": scores.loss_L, "entropy": scores.entropy_L, "rank": scores.rank_L}
    return Found(text.name, values, arrays, [page.flow(title, cells, measures)])


LOOKS: dict[str, Callable[[Subject, Sequence[Text], Settings], list[Found]]] = {
    "attention": _attention,
    "tokens": _token_losses,
}


def _chosen(key: str, wanted: Sequence[int], number: int) -> list[int]:
    """Gives indices that are wanted, or all; raises UserError where there is no such one."""
    for index in wanted:
        if index >= number:
            raise UserError(
                f"{key}={index} is not there; the model has {number}, the last of which is "
                f"{number - 1}"
            )
    return list(wanted) or list(range(number))
