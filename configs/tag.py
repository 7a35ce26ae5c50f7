r"""Which words are names of what? And other tags of words: parts of speech, chunks.

Command:   python launch.py --config=configs/tag.py --config.init_from=RUN_OR_HF_FOLDER \
               --config.data.train=train.conll --config.data.validation=valid.conll
           CoNLL-2003's columns, CoNLL-U, or JSON Lines of {"tokens": [...], "tags": [...]}.
           scheme=none for tags that make no entities.
Example:   python launch.py --config=configs/tag.py:debug,crf=true
           tags the names in Python's source by what they do there.
Expected:  docs/results/finetuning.md
"""

import ml_collections

from configs import common, families


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: crf, scheme=BIO|BIOES|none, model=init_from|bert|gpt2|llama|t5, tokenizer,
    optimizer, schedule, debug.
    """
    arg = common.finetuning_arg(arg, crf=False, scheme="BIO")
    scheme = "" if arg.scheme == "none" else arg.scheme
    task = dict(
        kind="tagging",
        labels=(),
        crf=arg.crf,
        scheme=scheme,
        on_ill_formed="raise",
        tokens="tokens",
        tags="tags",
    )
    return common.finetuning(
        task,
        arg=arg,
        scratch=families.small_models("bert", "gpt2", "llama", "t5"),
        seq_len=128,
        debug_seq_len=64,
        best_metric="eval/f1_micro" if scheme else "eval/token_accuracy",
    )
