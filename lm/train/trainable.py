"""Chooses which parameters are trained: all, those that no pattern freezes, or adapters."""

import hashlib
import re
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.errors import UserError
from lm.models import lora
from lm.models.parameters import Params
from lm.settings import call


class Trainable:
    """Parts a model's parameters in those that are trained and those that stay as they are.

    What is trained is the tree {"params": ...}, and with LoRA also {"adapters": ...}: then of the
    parameters only a new head is trained. Checkpoints and the optimiser hold nothing else.

    Args:
      lora_settings: of `LoraConfig`; a `rank` of 0 means no adapters.
      frozen: a regular expression, searched in the path of each parameter; "" freezes none.
      params: of the whole model; shapes are enough. With LoRA, what stands beside its "body" is
        trained too; without a body, nothing is.

    Raises:
      UserError: a pattern that is none, matches nothing, or leaves nothing to train; targets of
        adapters without a rank.
    """

    def __init__(self, lora_settings: dict[str, Any], frozen: str, params: Params):
        rank, targets = lora_settings["rank"], lora_settings["targets"]
        if targets and not rank:
            raise UserError(
                f"lora.targets={targets!r}, but lora.rank=0 makes no adapters; set both"
            )
        # What the adapters are, if any.
        self.lora = call(lora.LoraConfig, "lora", lora_settings) if rank else None
        self._head = params.keys() - {"body"} if "body" in params else set()
        try:
            self._frozen = re.compile(frozen) if frozen else None
        except re.error as error:
            raise UserError(f"train.frozen={frozen!r} is no regular expression: {error}") from None
        paths = ["/".join(path) for path in flatten_dict(params)]
        if self._frozen and not any(map(self._frozen.search, paths)):
            raise UserError(
                f"train.frozen={frozen!r} matches no parameter; there are {', '.join(paths[:8])}, "
                "..."
            )
        if not jax.tree.leaves(self.shapes(params)):
            raise UserError(f"train.frozen={frozen!r} leaves nothing to train")

    def partition(self, params: Params) -> tuple[Params, Params]:
        """Parts the parameters in those that are trained themselves, and the others."""
        flat = flatten_dict(params)
        part = lambda wanted: {p: x for p, x in flat.items() if self._is_trained(p) == wanted}
        return unflatten_dict(part(True)), unflatten_dict(part(False))

    def _is_trained(self, path: tuple[str, ...]) -> bool:
        if self.lora and path[0] not in self._head:
            return False
        return not (self._frozen and self._frozen.search("/".join(path)))

    def init(self, params: Params, key: jax.Array) -> Params:
        """Makes what is trained, as it is before the first step.

        Args:
          params: of the whole model; shapes are enough without DoRA.
          key: draws the adapters.
        """
        trained = {"params": self.partition(params)[0]}
        if self.lora:
            trained["adapters"] = lora.init_adapters(params, self.lora, key)
        return trained

    def shapes(self, params: Params) -> Params:
        """Returns the shapes of what is trained; shapes are enough for `params`."""
        return jax.eval_shape(self.init, params, jax.random.key(0))

    def combine(self, trained: Params, frozen: Params) -> Params:
        """Puts the model's parameters together, adapters merged in."""
        params = self.base(trained, frozen)
        return lora.merge(params, trained["adapters"], self.lora) if self.lora else params

    def base(self, trained: Params, frozen: Params) -> Params:
        """Puts together the parameters that adapters are merged into."""
        return unflatten_dict(flatten_dict(trained["params"]) | flatten_dict(frozen))


def checksum(params: Params) -> str:
    """Hashes the names and bytes of a tree of arrays with SHA-256; gives "" for an empty one."""
    flat = flatten_dict(params)
    if not flat:
        return ""
    total = hashlib.sha256()
    for path in sorted(flat):  # Not in the order of the dict, which differs between sources.
        array: Any = np.ascontiguousarray(flat[path])
        total.update(f"{'/'.join(path)} {array.dtype} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()
