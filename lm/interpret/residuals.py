"""The residual stream of a text, by layer.

Dimension key: N layers, B batch, L length, D model width.
"""

import numpy as np

from lm.interpret.subject import Subject, Text, seen, sites


def residuals(subject: Subject, text: Text) -> dict[str, np.ndarray]:
    """Computes the stream as it was embedded and behind each layer, L x D by name.

    Of the first sequence that is read: where there is an encoder and a decoder, the encoder's.
    """
    name, side = next(iter(text.sides.items()))
    ends = (f"{name}layers.in", f"{name}layers.out")
    found = [next(s for s in sites(subject, text.inputs) if s.endswith(end)) for end in ends]
    by_site = seen(subject, text.inputs, found)
    into, out = (np.asarray(by_site[site])[:, 0, : len(side.ids_L)] for site in found)
    return {"embedding": into[0]} | {f"layer {n}": x_LD for n, x_LD in enumerate(out)}
