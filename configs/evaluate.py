r"""How well does a run predict text, or, if it was fine-tuned, do its task?

Command:   python launch.py --config=configs/evaluate.py --config.checkpoint=runs/quickstart
           python launch.py --config=configs/evaluate.py --config.checkpoint=runs/classify \
               --config.data.validation=test.jsonl --config.predictions=test_predictions.jsonl
"""

import ml_collections

from configs import common, finetuning


def get_config() -> ml_collections.ConfigDict:
    """With no data set: the run's own validation split, rows as it was trained on.

    Of `data`, a fine-tuned run reads `source`, `validation`, `batch_size`, `on_error` and
    `max_document_bytes`.
    """
    config = common.new("evaluate")
    config.checkpoint = ""  # The run, or folder of transformers, that is evaluated.
    config.predictions = ""  # A file of JSON Lines for the predictions of a task; "": none.
    config.task = finetuning.task_settings(is_scored=True)
    config.data = dict(
        source="",  # Of documents, as in training; "": the run's own data, as it is there.
        train="",  # As in training configs; nothing of it is evaluated.
        validation="",  # Globs of the files to evaluate, or a split of the source.
        field="",  # Field of a record that holds its text; "" where documents are files.
        seq_len=256,  # Tokens a row.
        batch_size=16,  # Rows at a time, over all devices; changes no number.
        add_bos=True,  # Whether documents start with the tokenizer's token for it.
        add_eos=True,  # Whether documents end with the tokenizer's token for it.
        on_error="raise",  # For what cannot be read: raise, or skip, which leaves out and counts.
        max_document_bytes=1_000_000_000,  # Longest document, line or value, unpacked.
    )
    config.parallel = common.parallel()
    return config
