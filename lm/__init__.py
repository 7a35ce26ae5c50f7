"""Language models as a library; docs/library.md shows its use. Nothing is imported before its use.

Open and make:
  load         a run, or a folder of `transformers`, from the disk
  families     the model families by name
  make_model   a model from a dict of settings

Texts:
  encode, decode   a text as token ids, and back
  generate         writes on from texts, or answers them and conversations
  score            log-likelihoods of texts

Train:
  TrainState   step, parameters and optimiser state
  make_loss_fn, make_step   from a model to a loss, to a step that is to be jitted

Write:
  export       a run as a folder of `transformers`
"""

import importlib
from typing import Any

_PLACES = {  # Where each name is, as module and name there.
    "load": ("lm.loading.run", "load"),
    "families": ("lm.models.families", "FAMILIES"),
    "make_model": ("lm.models.factory", "make_model"),
    "encode": ("lm.inference.texts", "encode"),
    "decode": ("lm.inference.texts", "decode"),
    "generate": ("lm.inference.texts", "generate"),
    "score": ("lm.inference.texts", "score"),
    "TrainState": ("lm.train.step", "TrainState"),
    "make_loss_fn": ("lm.train.language_model", "make_loss_fn"),
    "make_step": ("lm.train.language_model", "make_step"),
    "export": ("lm.inference.export", "export"),
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports what is asked for; JAX alone takes a second."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return globals().setdefault(name, getattr(importlib.import_module(module), attribute))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
