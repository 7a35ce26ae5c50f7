"""Which engine a config names."""

import contextlib
from typing import Any

from lm.curation.engines import beam, local
from lm.curation.engines.engine import Engine
from lm.settings import call, lookup

_BY_KIND = {"local": local.opened, "beam": beam.opened}


def opened(*, kind: str, **settings: Any) -> contextlib.AbstractContextManager[Engine]:
    """Opens the engine of a kind with the settings that it takes; raises UserError as it does."""
    return call(lookup("engine.kind", kind, _BY_KIND), "engine", settings)
