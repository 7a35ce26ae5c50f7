r"""Which class does a text, or a pair of texts, belong to? Or how much of something has it?

Command:   python launch.py --config=configs/classify.py --config.init_from=RUN_OR_HF_FOLDER \
               --config.data.train=my.jsonl
           with a line {"text": ..., "label": ...} an example; `task.pair` names a second text's
           field. kind=multi takes lists of labels, kind=regression numbers.
Example:   python launch.py --config=configs/classify.py:debug
           tells by a docstring which package it is from.
Expected:  docs/results/finetuning.md
"""

import ml_collections

from configs import common, families, finetuning

# Of the task block, what each kind has.
_KINDS = {
    "single": dict(
        kind="classification",  # The task: classification, by one label; multi_label, by any.
        labels=(),  # Names of all labels, in the order of the outputs; (): those of the data.
        class_weights="",  # Of labels in the loss: numbers with commas, or balanced; "": alike.
    ),
    "multi": dict(kind="multi_label", labels=(), class_weights=""),
    "regression": dict(
        kind="regression",  # The task: a number.
    ),
}
# Of the task block, what all of them have.
_FIELDS = dict(
    text="text",  # Field of a record that holds the text.
    pair="",  # Field of a second text; "" where there is none.
    label="label",  # Field of the label, the list of labels, or the number.
)
TASKS = {name: block | _FIELDS for name, block in _KINDS.items()}
_BEST_METRIC = {  # By which the best checkpoint is chosen.
    "classification": "eval/accuracy",
    "multi_label": "eval/f1_micro",
    "regression": "eval/spearman",
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: kind=single|multi|regression, model=init_from|bert|gpt2|llama|t5, tokenizer,
    optimizer, schedule, debug.
    """
    arg = finetuning.parse_arg(arg, kind="single")
    task = common.choose_by_kind("kind", arg.kind, TASKS)
    return finetuning.recipe(
        task,
        arg=arg,
        scratch=families.small_models("bert", "gpt2", "llama", "t5"),
        seq_len=128,
        debug_seq_len=96,
        best_metric=_BEST_METRIC[task["kind"]],
    )
