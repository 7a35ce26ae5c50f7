"""Named places of a model, which an observer can see or replace from outside.

`embedding`, B x L x D: what tokens became, before dropout and the first block. BERT has it below
`encoder`, and T5 one below `encoder` and one below `decoder`.

`layers/attention/probs`, B x H x L x M: the probabilities of the einsum kernel, before dropout. T5
also has `layers/cross_attention/probs`. Other kernels never hold them whole: with these, and
through a cache, there is no such site.

Arrays of layers come stacked along a first dimension, scanned or not:

    _, seen = model.apply(
        variables,
        **inputs,
        capture_intermediates=lambda module, _: isinstance(module, Site),
        mutable=["intermediates"],
    )
    probs_NBHLM = seen["intermediates"]["layers"]["attention"]["probs"]["__call__"][0]

`flax.linen.intercept_methods` can also change what passes.
"""

import jax
from flax import linen as nn


class Site(nn.Module):
    """The identity, under a name; it adds nothing to the compiled program."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Any array -> the same."""
        return x
