"""What each look computes of texts, and how it is shown.

Dimension key: N layers, L length, H heads, C cells, K likeliest tokens, D model width.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.wiring import looks_over_texts
from experiments.wiring.look_inputs import Found, Settings, check_room, read_texts
from lm.errors import UserError
from lm.interpret import (
    attention_maps,
    attributions,
    induction,
    lens,
    page,
    token_losses,
    tracing,
)
from lm.interpret.cells import Cell, over_cells
from lm.interpret.subject import Subject, Text
from lm.interpret.targets import Target, make_target
from lm.settings import choose


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


def _lens(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    lens.check_lens(subject)
    translators = None
    if given["num_steps"]:
        if not given["train_file"]:
            raise UserError(
                "num_steps trains a tuned lens, and train_file is not set; name texts to train "
                "on, or set num_steps=0 for the logit lens"
            )
        training = read_texts(subject, given | {"texts": (), "texts_file": given["train_file"]})
        translators = lens.train_translators(
            subject,
            training,
            num_steps=given["num_steps"],
            peak_lr=given["peak_lr"],
            batch_size=given["batch_size"],
        )
    found = []
    for text in texts:
        plain = lens.read_lens(subject, text)
        reading = plain if translators is None else lens.read_lens(subject, text, translators)
        found.append(_lens_of(subject, text, reading, plain))
    return found


def _lens_of(
    subject: Subject, text: Text, reading: lens.LensReading, plain: lens.LensReading
) -> Found:
    side = text.written
    piece = lambda token_id: subject.run.tokenizer.piece(token_id).replace(" ", "␣")
    at_C = [cell.end - 1 for cell in side.cells]  # What is predicted behind a cell.
    N = len(reading.kl_NL)
    names = ["embedding", *(f"layer {n}" for n in range(N - 1))]
    likely = lambda n, j: [
        f"{piece(int(i))}  {p:.4f}"
        for i, p in zip(reading.top_NLK[n, j], reading.probs_NLK[n, j], strict=True)
    ]
    order = range(N - 1, -1, -1)  # The output is on top.
    block = page.grid(
        "What each layer predicts behind each cell",
        [names[n] for n in order],
        side.cells,
        np.array([[reading.kl_NL[n, j] for j in at_C] for n in order]),
        measure="KL from the output",
        unit="nats",
        words=[[piece(int(reading.top_NLK[n, j, 0])) for j in at_C] for n in order],
        more=[["\n".join(likely(n, j)) for j in at_C] for n in order],
        about="The likeliest token of each layer, by the model's own final norm and output.",
    )
    means = [float(x) for x in reading.kl_NL.mean(axis=1)]
    values = {"kl_by_layer": means, "logit_lens_kl_by_layer": plain.kl_NL.mean(axis=1).tolist()}
    return Found(text.name, values, reading._asdict(), [block])


def _attributions(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    choose("method", given["method"], attributions.METHODS)
    choose("baseline", given["baseline"], attributions.BASELINES)
    return [_attributions_of(subject, text, given) for text in texts]


def _target(subject: Subject, text: Text, given: Settings) -> Target:
    return make_target(
        subject, text, name=given["target"], versus=given["versus"], place=given["place"]
    )


def _attributions_of(subject: Subject, text: Text, given: Settings) -> Found:
    method = given["method"]
    if method == "attention_rollout":
        return _rollout_of(subject, text)
    target = _target(subject, text, given)
    if method == "integrated_gradients":
        settings = dict(baseline=given["baseline"], num_nodes=given["num_nodes"])
        made = attributions.integrated_gradients(subject, text, target, **settings)
    elif method == "gradient_x_input":
        made = attributions.gradient_x_input(subject, text, target)
    else:
        made = attributions.saliency(subject, text, target)
    lines = f"{method} of {target.name} at place {target.place}: {made.value:.4f}"
    if made.gap is not None:
        change = made.value - made.baseline_value
        lines += (
            f"; {made.baseline_value:.4f} of the baseline {given['baseline']}, gap {made.gap:.2e}"
        )
        if abs(made.gap) > 1e-3 * abs(change):
            lines += "; the attributions do not add up to the change: raise num_nodes"
    print(f"{text.name}: {lines}")
    blocks, arrays = [], {}
    for name, x_LD in made.by_site.items():
        side = text.side(name)
        arrays[name] = x_LD.sum(axis=1)
        by_cell = over_cells(arrays[name], side.cells, how="sum", axis=0)
        of_cell = page.measure(method, by_cell, signed=method != "saliency")
        blocks.append(page.flow(lines, side.cells, [of_cell]))
    values = {"target": target.name, "place": target.place, "value": made.value, "method": method}
    values |= {"baseline_value": made.baseline_value, "gap": made.gap}
    return Found(text.name, values, arrays, blocks)


def _rollout_of(subject: Subject, text: Text) -> Found:
    arrays, blocks = attributions.attention_rollout(subject, text), []
    for name, rolled_LM in arrays.items():
        cells = text.side(name).cells
        by_keys = over_cells(rolled_LM, cells, how="sum", axis=1)
        maps = {"rollout": over_cells(by_keys, cells, how="mean", axis=0)}
        blocks.append(page.matrix(f"attention rollout, {name}", cells, cells, maps))
    return Found(text.name, {"method": "attention_rollout"}, arrays, blocks)


def _tracing(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    if len(texts) != 2:
        raise UserError(
            f"tracing compares a clean text with a corrupted one, and there are {len(texts)}; give "
            "these two"
        )
    clean, corrupted = texts
    tracing.check_pair(clean, corrupted)
    target = _target(subject, clean, given)
    made = tracing.trace(
        subject, clean, corrupted, target, names=given["sites"], chunk_size=given["chunk_size"]
    )
    values = {"target": target.name, "clean": made.clean, "corrupted": made.corrupted}
    print(f"{target.name}: {made.clean:.4f} of the clean text, {made.corrupted:.4f} corrupted")
    arrays, blocks = {}, []
    for name in made.effects:
        for kind, effects in (("effects", made.effects), ("estimates", made.estimates)):
            arrays[f"{kind}/{name}"] = over = effects[name]
            if name in made.by_head:
                columns = _heads(over.shape[1])
            else:
                columns = clean.side(name).cells
                over = over_cells(over, columns, how="sum", axis=1)
            blocks.append(_effects(name, kind, over, columns, target))
    return [Found(f"{clean.name} into {corrupted.name}", values, arrays, blocks)]


def _effects(
    name: str, kind: str, effects_NC: np.ndarray, columns: Sequence[Cell], target: Target
) -> page.Block:
    about = {
        "effects": "Each place is a run on the corrupted text with the clean activations there; of "
        "a head, at all positions.",
        "estimates": "The same to first order, by one gradient.",
    }
    order = range(len(effects_NC) - 1, -1, -1)
    return page.grid(
        f"{name}, {kind}",
        [f"layer {n}" for n in order],
        columns,
        effects_NC[::-1],
        measure=f"change of {target.name}",
        signed=True,
        about=about[kind],
    )


def _induction(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    del texts  # It draws its own.
    settings = {key: given[key] for key in ("num_sequences", "sequence_len", "seed")}
    made, tokens_BL = induction.induction(subject, **settings)
    n, h = np.unravel_index(made.copying_NH.argmax(), made.copying_NH.shape)
    losses = f"{made.first_loss:.4f} nats a token at first, {made.second_loss:.4f} again"
    print(f"layer {n}, head {h} copies most, {made.copying_NH[n, h]:.4f}; {losses}")
    abouts = {
        "copying": "Attention to the token behind the same one in the first reading.",
        "previous": "Attention to the token before.",
    }
    arrays = {"copying": made.copying_NH, "previous": made.previous_NH, "tokens": tokens_BL}
    blocks = [
        page.grid(
            f"{name}: {losses}",
            [f"layer {n}" for n in range(len(made.copying_NH) - 1, -1, -1)],
            _heads(arrays[name].shape[1]),
            arrays[name][::-1],
            measure="mean probability",
            about=about,
        )
        for name, about in abouts.items()
    ]
    values = {name: arrays[name].tolist() for name in abouts}
    values |= {"first_loss": made.first_loss, "second_loss": made.second_loss}
    return [Found("random tokens, read twice", values, arrays, blocks)]


def _heads(num: int) -> list[Cell]:
    return [Cell(f"head {h}", h, h + 1, False) for h in range(num)]


LOOKS: dict[str, Callable[[Subject, Sequence[Text], Mapping[str, Any]], list[Found]]] = {
    "attention": _attention,
    "tokens": _token_losses,
    "lens": _lens,
    "attributions": _attributions,
    "tracing": _tracing,
    "induction": _induction,
    "probes": looks_over_texts.probe_layers,
    "neurons": looks_over_texts.count_neurons,
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
