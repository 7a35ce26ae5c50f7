r"""What does a task model say of new text: its label, its tags, the answer in it, its translation?

Command:   python launch.py --config=configs/predict.py --config.checkpoint=runs/classify \
               --config.input=new.jsonl --config.output=predictions.jsonl
           head -1000 new.txt | python launch.py --config=configs/predict.py \
               --config.checkpoint=runs/classify --config.input=- | jq .prediction.label
"""

import ml_collections

from configs import common, finetuning


def get_config() -> ml_collections.ConfigDict:
    """`checkpoint` is a fine-tuned run, or a folder of `transformers` with the head of a task."""
    config = common.new("predict")
    config.checkpoint = ""  # The fine-tuned run, or folder of transformers, that predicts.
    config.input = ""  # A file, or - for standard input.
    config.output = ""  # A file, which is replaced once all is predicted; empty: standard output.
    config.input_format = "auto"  # jsonl, text (a record a line), or auto: by suffix or first line.
    config.task = finetuning.task_settings(is_scored=False)
    config.data = dict(
        batch_size=32,  # Records at a time, over all devices; changes no number.
        on_error="raise",  # raise, or skip, which gives a bad record an "error" for a "prediction".
        truncate=False,  # Whether texts are cut that the task refuses as too long.
        max_document_bytes=100_000_000,  # Longest record, unpacked.
    )
    # How replies to conversations are written; other tasks write as they are evaluated.
    config.max_new_tokens = 256  # Most tokens of a reply.
    config.temperature = 0.0  # What logits are divided by before a token is drawn; 0: greedy.
    config.top_k = 0  # Draws among so many of the likeliest tokens; 0: among all.
    config.top_p = 1.0  # Draws among the likeliest tokens of this probability together; 1: all.
    config.min_p = 0.0  # Draws among tokens of this share of the likeliest's probability; 0: all.
    config.repetition_penalty = 1.0  # Above 1: what was read or written comes again less; 1: none.
    config.seed = 0  # Of what is drawn.
    config.parallel = common.parallel()
    return config
