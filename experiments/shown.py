"""A config as it is shown to people."""

import json

import ml_collections


def config_text(config: ml_collections.ConfigDict) -> str:
    """YAML, its tuples as lists: YAML has none, and would name Python's."""
    return str(ml_collections.ConfigDict(json.loads(config.to_json())))
