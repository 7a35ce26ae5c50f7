r"""Carries weights between runs and folders of `transformers` or `peft`, whichever `source` is.

Command:   python launch.py --config=configs/convert.py --config.source=DIR --config.target=DIR
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Both folders are to be named; the target must be new."""
    config = ml_collections.ConfigDict()
    config.experiment = "convert"
    config.source = ""
    config.target = ""
    config.base = ""  # Of adapters of peft into a run: the run or folder that they belong to.
    config.adapters = False  # Out of a run with LoRA: its adapters, as a folder of peft.
    config.vocab_size = 0  # Into a run: grow the vocabulary to this; 0 keeps it.
    config.allow_missing = False  # Into a run: draw parameters that the source lacks at random.
    config.allow_unknown = False  # Into a run: leave out weights that the model does not have.
    return config
