r"""How well does a run predict text?

Command:   python launch.py --config=configs/evaluate.py --config.checkpoint=runs/quickstart
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """With `data.source` unset: the run's own validation split, rows as it was trained on."""
    config = ml_collections.ConfigDict()
    config.experiment = "evaluate"
    config.checkpoint = ""
    config.data = dict(
        source="",
        train="",
        validation="",
        field="",
        seq_len=256,
        batch_size=16,
        add_bos=True,
        add_eos=True,
        on_error="raise",
    )
    return config
