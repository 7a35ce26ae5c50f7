r"""How well does a run predict text, or, if it was fine-tuned, do its task?

Command:   python launch.py --config=configs/evaluate.py --config.checkpoint=runs/quickstart
           python launch.py --config=configs/evaluate.py --config.checkpoint=runs/classify \
               --config.data.validation=test.jsonl --config.predictions=test_predictions.jsonl
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """With no data set: the run's own validation split, rows as it was trained on.

    Of `data`, a fine-tuned run reads `source`, `validation`, `batch_size`, `on_error` and
    `max_document_bytes`.
    """
    config = ml_collections.ConfigDict()
    config.experiment = "evaluate"
    config.checkpoint = ""
    config.predictions = ""
    read = ("text", "pair", "tokens", "source", "messages", "unanswerable")
    right = ("label", "tags", "scheme", "target", "scorer")  # What predictions are compared with.
    config.task = common.task_settings(*read, *right)
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
        max_document_bytes=1_000_000_000,
    )
    config.parallel = common.parallel()
    return config
