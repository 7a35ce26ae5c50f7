r"""Which part of a text answers a question, if any does?

Command:   python launch.py --config=configs/answer.py --config.init_from=RUN_OR_HF_FOLDER \
               --config.data.train=train-v2.0.json --config.data.validation=dev-v2.0.json \
               --config.task.unanswerable=True
           SQuAD's JSON; scorer=cmrc counts Chinese characters where `squad` counts words.
Example:   python launch.py --config=configs/answer.py:debug
           finds the function that does what a sentence says.
Expected:  docs/results/finetuning.md
"""

import ml_collections

from configs import families, finetuning


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: scorer=squad|cmrc, model=init_from|bert|gpt2|llama|t5, tokenizer, optimizer,
    schedule, debug.
    """
    arg = finetuning.parse_arg(arg, scorer="squad")
    task = dict(
        kind="question_answering",  # The task; each kind has a recipe of its own.
        stride=128,  # Tokens between the starts of two windows of a long text.
        max_answer_len=30,  # Tokens of the longest answer that is predicted.
        unanswerable=False,  # Whether a question may have no answer, as in SQuAD 2.0.
        scorer=arg.scorer,  # squad, by words; or cmrc, by Chinese characters.
    )
    config = finetuning.recipe(
        task,
        arg=arg,
        scratch=families.small_models("bert", "gpt2", "llama", "t5"),
        seq_len=384,
        debug_seq_len=256,
        best_metric="eval/f1",
        peak_lr=3e-5,
        num_epochs=2.0,
    )
    if arg.debug:
        config.data.batch_size = 16
        config.task.stride = 32  # Some questions are long, and must leave room for more than this.
    return config
