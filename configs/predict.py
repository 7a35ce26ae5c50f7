r"""What does a task model say of new text: its label, its tags, the answer in it, its translation?

Command:   python launch.py --config=configs/predict.py --config.checkpoint=runs/classify \
               --config.input=new.jsonl --config.output=predictions.jsonl
           head -1000 new.txt | python launch.py --config=configs/predict.py \
               --config.checkpoint=runs/classify --config.input=- | jq .prediction.label
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """`checkpoint` is a fine-tuned run, or a folder of `transformers` with the head of a task."""
    config = ml_collections.ConfigDict()
    config.experiment = "predict"
    config.checkpoint = ""
    config.input = ""  # A file, or - for standard input.
    config.output = ""  # A file, which is replaced once all is predicted; empty: standard output.
    config.input_format = "auto"  # jsonl, text (a record a line), or auto: by suffix or first line.
    config.task = common.task_settings(
        "text", "pair", "tokens", "source", "messages", "unanswerable"
    )
    config.data = dict(
        batch_size=32,
        on_error="raise",  # skip: such a record gets an "error" in place of its "prediction".
        truncate=False,  # Whether texts are cut that the task refuses as too long.
        max_document_bytes=100_000_000,  # The longest record.
    )
    # How replies to conversations are written; other tasks write as they are evaluated.
    config.max_new_tokens = 256
    config.temperature = 0.0  # 0 is greedy.
    config.top_k = 0
    config.top_p = 1.0
    config.seed = 0
    config.parallel = common.parallel()
    return config
