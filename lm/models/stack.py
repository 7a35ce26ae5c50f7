"""A stack of equal blocks: one set of parameter names, however it is computed."""

from collections.abc import Callable, Mapping

import jax
from flax import linen as nn

# What the backward pass may keep of a block instead of computing it again, by `model.remat`.
REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def stack(parent: nn.Module, block: type[nn.Module], **fields) -> Callable[..., jax.Array]:
    """Chains `config.num_layers` blocks, named "layers"; parameters stack along a leading axis.

    The parameters are stacked whether or not the layers are scanned, and rematerialised blocks keep
    their names, so a checkpoint does not know how it was computed. `config.scan_layers` compiles
    one block and loops over it: quicker to compile, slower to run.

    Args:
      parent: the module that they are part of, inside a compact method; its `config` is theirs.
      block: maps B x L x D, and keywords that are the same for all layers, to B x L x D.
      **fields: of the blocks, besides `config`.

    Returns:
      (x_BLD, by_layer, **inputs) -> x_BLD. `by_layer` is None, or for decoding holds keywords of
      which each layer has its own, such as its cache, by name as sequences; the parameters are then
      those of `kv_cache.unstack_for_decoding`, a list.
    """
    c = parent.config
    # Initialisation always loops, which changes no number: the random numbers of all layers in one
    # kernel took more than a minute to compile for a GPU.
    scan_layers = c.scan_layers or parent.is_initializing()
    policy = REMAT_POLICIES[c.remat]

    def layers(x_BLD: jax.Array, by_layer: Mapping | None = None, **inputs) -> jax.Array:
        if by_layer is not None:
            # Outside `nn.scan`, which would want the caches of all layers in one array.
            layer = block(config=c, parent=None, **fields)
            params = parent.get_variable("params", "layers")
            for of_layer, *values in zip(params, *by_layer.values(), strict=True):
                own = dict(zip(by_layer, values, strict=True))
                x_BLD = layer.apply({"params": of_layer}, x_BLD, **inputs, **own)
            return x_BLD
        # Inside a real loop nothing can be merged across iterations, so the guard would only cost.
        remat = lambda block: nn.remat(block, policy=policy, prevent_cse=not scan_layers)
        layer = (remat(block) if policy is not None else block)(config=c, name="layers", **fields)
        scanned = nn.scan(
            lambda layer, x_BLD, inputs: (layer(x_BLD, **inputs), None),
            variable_axes={"params": 0, "intermediates": 0, "patches": 0},  # See lm.interpret.
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=c.num_layers,
            unroll=1 if scan_layers else c.num_layers,  # All: straight-line code, the same tree.
            # A check traces the block once more. It counts as drawn what the block draws, so that
            # other random numbers would come without it.
            check_constancy_invariants=parent.is_initializing() or c.dropout > 0,
        )
        return scanned(layer, x_BLD, inputs)[0]

    return layers
