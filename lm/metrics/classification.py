"""Metrics of classification, from counts; and a picture of the confusion matrix.

They are those of scikit-learn, which is not called: see `averages`.

Dimension key: N examples, S labels (gold, then predicted)
"""

import html
import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from lm.metrics.averages import AVERAGES, averages

SINGLE_LABEL = ("accuracy", *AVERAGES, "matthews")
MULTI_LABEL = ("subset_accuracy", *AVERAGES)


def confusion(gold_N: np.ndarray, predicted_N: np.ndarray, num_labels: int) -> np.ndarray:
    """Counts how often gold (row) was predicted as what (column): N, N label ids -> S x S.

    0 0 1 predicted as 0 1 1 is [[1, 1], [0, 1]]. The matrices of batches add up.
    """
    # Cells numbered row by row, in 64 bits: ids may come in 32, whose product could overflow.
    pairs_N = np.asarray(gold_N, np.int64) * num_labels + np.asarray(predicted_N, np.int64)
    return np.bincount(pairs_N, minlength=num_labels**2).reshape(num_labels, num_labels)


def single_label(counts_SS: np.ndarray) -> dict[str, float]:
    """Scores S x S counts: accuracy, averages of precision, recall, F1, and Matthews' coefficient.

    Averages end in _macro, _micro and _weighted; as in scikit-learn, they are over the labels that
    gold or predictions have. "matthews" is that of several classes (Gorodkin 2004, eq. 8), and 0
    where gold or predictions have one label alone.
    """
    correct_S, predicted_S, gold_S = counts_SS.diagonal(), counts_SS.sum(0), counts_SS.sum(1)
    seen_S = predicted_S + gold_S > 0
    # Python's integers: products of four counts exceed 64 bits.
    total, correct = int(counts_SS.sum()), int(correct_S.sum())
    same_label = total**2 - int(gold_S @ gold_S), total**2 - int(predicted_S @ predicted_S)
    covariance = correct * total - int(gold_S @ predicted_S)
    return {
        "accuracy": correct / max(total, 1),
        **averages(correct_S[seen_S], predicted_S[seen_S], gold_S[seen_S]),
        "matthews": covariance / math.sqrt(math.prod(same_label) or 1),
    }


def multi_label(gold_NS: np.ndarray, predicted_NS: np.ndarray) -> dict[str, float]:
    """Scores N x S booleans, twice: "subset_accuracy", averages of precision, recall and F1.

    An example is right in "subset_accuracy" if all of its labels are. Averages end in _macro,
    _micro and _weighted, and are over all labels, as in scikit-learn.
    """
    right_N = (gold_NS == predicted_NS).all(axis=1)
    counts = (gold_NS & predicted_NS).sum(0), predicted_NS.sum(0), gold_NS.sum(0)
    # Not `mean`, which is NaN of no examples.
    return {"subset_accuracy": float(right_N.sum() / max(len(right_N), 1)), **averages(*counts)}


# The picture -----------------------------------------------------------------------------------

_LABEL_SIZE, _MAX_LABEL_EMS = 13, 12


def confusion_svg(counts_SS: np.ndarray, labels: Sequence[str]) -> str:
    """Draws the matrix as SVG text: rows are gold, columns predicted, shades a row's shares.

    Args:
      counts_SS: as `confusion` gives them.
      labels: of any script; long ones lose their middle, and show whole under the pointer.
    """
    S, shown = len(labels), [_shorten(label) for label in labels]
    digits = len(str(counts_SS.max(initial=0)))
    side = max(min(64, 420 // S), 7 * digits + 10, 24)
    label_width = _LABEL_SIZE * max(map(_ems, shown))
    left, top = 44 + label_width, 44 + 0.71 * (label_width + _LABEL_SIZE)
    grid = side * S
    width, height = left + grid + 0.71 * label_width + 24, top + grid + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" '
        f'font-size="{_LABEL_SIZE}" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(left + grid / 2, 22, "predicted", 'text-anchor="middle" font-weight="bold"'),
        _text(22, top + grid / 2, "gold", 'text-anchor="middle" font-weight="bold"', angle=-90),
    ]
    for i, label in enumerate(labels):
        middle = (i + 0.5) * side
        title = f"<title>{_escape(label)}</title>{_escape(shown[i])}"
        parts.append(_text(left - 8, top + middle + 4.5, title, 'text-anchor="end"'))
        parts.append(_text(left + middle + 4, top - 8, title, angle=-45))
    parts += _cells(counts_SS, left, top, side, digits)
    parts += [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{grid}" height="{grid}" fill="none" '
        'stroke="#888"/>',
        _text(left, top + grid + 22, "Shade: share of the row.", 'font-size="11" fill="#666"'),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _cells(counts_SS: np.ndarray, left: float, top: float, side: int, digits: int) -> list[str]:
    shares_SS = counts_SS / np.maximum(counts_SS.sum(axis=1, keepdims=True), 1)
    size = min(16.0, 0.42 * side, (side - 8) / (0.62 * digits))
    parts = []
    for (row, column), count in np.ndenumerate(counts_SS):
        x, y, share = left + column * side, top + row * side, shares_SS[row, column]
        shade = "#" + "".join(f"{round(255 + share * (c - 255)):02x}" for c in (8, 81, 156))
        ink = "#bbb" if count == 0 else "white" if share > 0.5 else "#222"
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{side}" height="{side}" fill="{shade}" '
            'stroke="#ddd" stroke-width="0.5"/>'
        )
        style = f'text-anchor="middle" font-size="{size:.1f}" fill="{ink}"'
        parts.append(_text(x + side / 2, y + side / 2 + 0.36 * size, str(count), style))
    return parts


def _text(x: float, y: float, content: str, style: str = "", angle: int = 0) -> str:
    turned = f' transform="rotate({angle} {x:.1f} {y:.1f})"' if angle else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}{turned}>{content}</text>'


def _escape(label: str) -> str:
    # XML has no way to write control characters.
    return html.escape(re.sub(r"[\x00-\x1f\x7f\ufffe\uffff]", "\ufffd", label))


def _ems(text: str) -> float:
    """Estimates how wide a text is, in units of its font size."""
    return sum(_em(character) for character in text)


def _em(character: str) -> float:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0.0
    return 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.58


def _shorten(label: str) -> str:
    """Cuts the middle of a label wider than about _MAX_LABEL_EMS; many differ at the end."""
    if _ems(label) <= _MAX_LABEL_EMS:
        return label
    head = _fitting(label, 0.6 * _MAX_LABEL_EMS)
    tail = _fitting(label[::-1], 0.3 * _MAX_LABEL_EMS)[::-1]
    return f"{head}…{tail}"


def _fitting(text: str, ems: float) -> str:
    widths = np.cumsum([_em(character) for character in text])
    return text[: int(np.searchsorted(widths, ems, side="right"))]
