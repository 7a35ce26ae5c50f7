"""A stack of equal blocks: one set of parameter names, however it is computed."""

import jax
from flax import linen as nn

from lm.settings import choose

# What the backward pass may keep of a block instead of computing it again.
_REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def check_remat(remat: str) -> None:
    """Raises UserError unless `remat` is one of none, dots and full."""
    choose("model.remat", remat, _REMAT_POLICIES)


def stack(
    block: type[nn.Module], *, num_layers: int, remat: str, scan_layers: bool, **fields
) -> nn.Module:
    """`num_layers` blocks in a row, named "layers", their parameters stacked along a leading axis.

    The parameters are stacked whether or not the layers are scanned, and rematerialised blocks keep
    their names, so a checkpoint does not know how it was computed. `scan_layers` compiles one block
    and loops over it: quicker to compile, slower to run. Callers set it while they initialise,
    which changes no number: the random numbers of all layers in one kernel took more than a minute
    to compile for a GPU.

    A block maps (x_BLD, *broadcast) to (x_BLD, None), as `lax.scan` has it.
    """
    policy = _REMAT_POLICIES[remat]
    if policy is not None:
        # Inside a real loop nothing can be merged across iterations, so the guard would only cost.
        block = nn.remat(block, policy=policy, prevent_cse=not scan_layers)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},  # These if someone asks for them.
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=num_layers,
        unroll=1 if scan_layers else num_layers,
    )
    return scanned(name="layers", **fields)
