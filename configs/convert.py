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
    return config
