"""Looks at many texts together: probes, and statistics of neurons.

Dimension key: N layers, L length, W words, D model width, F neurons of a layer, K kept places.
"""

from collections.abc import Sequence

import numpy as np

from experiments.wiring.look_inputs import Found, Settings, check_room, read_records
from lm.errors import UserError
from lm.interpret import neurons, page, probes, residuals
from lm.interpret import subject as subject_lib
from lm.interpret.subject import Subject, Text


def probe_layers(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    del texts  # They are read as words.
    if not given["train_file"]:
        raise UserError("train_file is not set; name a file of words and their tags to train on")
    train_x, train_words, train_tags = _probed(subject, given, "train_file")
    held_x, held_words, held_tags = _probed(subject, given, "texts_file")
    labels = probes.check_labels(train_tags)
    if unknown := sorted(set(held_tags) - set(labels)):
        raise UserError(f"texts_file has the tag {unknown[0]!r}, and train_file has none of it")
    index = np.array([labels.index(tag) for tag in train_tags])
    held_index = np.array([labels.index(tag) for tag in held_tags])
    shares_S = np.bincount(index, minlength=len(labels))
    control, held_control = (
        probes.control_labels(words, shares_S) for words in (train_words, held_words)
    )
    majority = float(np.mean(held_index == shares_S.argmax()))
    rows, values = [], []
    for layer, x_WD in train_x.items():
        scores = probes.score(
            x_WD,
            held_x[layer],
            index,
            held_index,
            control,
            held_control,
            num_labels=len(labels),
            inverse_l2=given["inverse_l2"],
        )
        values.append({"layer": layer} | scores._asdict() | {"selectivity": scores.selectivity})
        rows.append([layer, scores.accuracy, scores.low, scores.high, scores.control])
        rows[-1].append(scores.selectivity)
        print(f"{layer}: {scores.accuracy:.4f}, control {scores.control:.4f}")
    head = ["layer", "accuracy", "from", "to", "control", "selectivity"]
    about = (
        f"{len(held_index):,} held-out words, {len(index):,} to train on, {len(labels)} labels; "
        f"the most frequent of training is right for {majority:.4f}. From and to: 95 % (Wilson). "
        "Control: labels drawn for each kind of word; selectivity is what is above it."
    )
    table = page.table("What a linear probe reads off each layer", head, rows, about)
    found = {"labels": labels, "majority": majority, "layers": values}
    return [Found("probes", found, {}, [table])]


def _probed(
    subject: Subject, given: Settings, key: str
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Reads words and tags of a file, and what stands at them at each layer, W x D."""
    rows: dict[str, list[np.ndarray]] = {}
    words, tags = [], []
    for record in read_records(subject, given[key], given):
        of_record = [record.fields.get(name) for name in (given["tokens"], given["tags"])]
        if not all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in of_record):
            raise UserError(
                f"{record.name}: a probe needs lists of texts in the fields {given['tokens']!r} "
                f"and {given['tags']!r}"
            )
        if len(of_record[0]) != len(of_record[1]) or not of_record[0]:
            raise UserError(
                f"{record.name} has {len(of_record[0])} words and {len(of_record[1])} tags"
            )
        text, first_W = subject_lib.read_words(subject, record.name, of_record[0])
        for layer, x_LD in residuals.residuals(subject, text).items():
            rows.setdefault(layer, []).append(x_LD[first_W])
        words += of_record[0][: len(first_W)]
        tags += of_record[1][: len(first_W)]
    if not words:
        raise UserError(f"{key}={given[key]} holds no words; give another")
    return {layer: np.concatenate(parts) for layer, parts in rows.items()}, words, tags


def count_neurons(subject: Subject, texts: Sequence[Text], given: Settings) -> list[Found]:
    check_room(subject, texts, neurons.neuron_sites)
    found = []
    totals = neurons.neuron_statistics(subject, enumerate(texts))
    for name, of_site in totals.items():
        num_tokens = of_site.num_tokens
        mean_NF, zero_NF = of_site.sum_NF / num_tokens, of_site.num_zero_NF / num_tokens
        highest = np.argsort(-of_site.values_NFK[:, :, 0], axis=None)[: given["num_shown"]]
        rows = []
        for n, f in zip(*np.unravel_index(highest, mean_NF.shape), strict=True):
            at = zip(of_site.text_NFK[n, f], of_site.position_NFK[n, f], strict=True)
            places = [_context(texts[t], name, j) for t, j in at]
            values = [value for value in of_site.values_NFK[n, f] if np.isfinite(value)]
            shown = "\n".join(f"{v:.3g}  {w}" for v, w in zip(values, places, strict=False))
            rows.append([f"{n}", f"{f}", float(mean_NF[n, f]), float(zero_NF[n, f]), shown])
        about = (
            f"Over {num_tokens:,} tokens of {len(texts):,} texts, the {len(rows)} neurons that "
            "rise highest; interpret.npz has all. Zero: the share of tokens at which a neuron is 0 "
            "or below."
        )
        head = ["layer", "neuron", "mean", "zero", "highest at"]
        arrays = {"mean": mean_NF, "share_zero": zero_NF, "highest": of_site.values_NFK}
        arrays |= {"text": of_site.text_NFK, "position": of_site.position_NFK}
        values = {"num_tokens": num_tokens, "num_neurons": mean_NF.size}
        found.append(Found(name, values, arrays, [page.table(name, head, rows, about)]))
    return found


def _context(text: Text, name: str, position: int) -> str:
    """Shows a token between marks, with the characters around it."""
    side = text.side(name)
    at = next(i for i, cell in enumerate(side.cells) if cell.first <= position < cell.end)
    spelt = [
        "".join(c.before + c.text for c in part) for part in (side.cells[:at], side.cells[at + 1 :])
    ]
    here = side.cells[at]
    return f"{spelt[0][-30:]}{here.before}⟦{here.text}⟧{spelt[1][:15]}".replace("\n", "⏎")
