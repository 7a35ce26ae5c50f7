r"""Carries weights between runs and folders of Hugging Face `transformers`, whichever `source` is.

Command:   python launch.py --config=configs/convert.py --config.source=DIR --config.target=DIR
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Both folders are to be named; the target must be new."""
    config = ml_collections.ConfigDict()
    config.experiment = "convert"
    config.source = ""
    config.target = ""
    config.vocab_size = 0  # Into a run: grow the vocabulary to this; 0 keeps it.
    config.allow_missing = False  # Into a run: draw parameters that the source lacks at random.
    config.allow_unknown = False  # Into a run: leave out weights that the model does not have.
    return config
