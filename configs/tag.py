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

from configs import families, finetuning


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: crf, scheme=BIO|BIOES|none, model=init_from|bert|gpt2|llama|t5, tokenizer,
    optimizer, schedule, debug.
    """
    arg = finetuning.parse_arg(arg, crf=False, scheme="BIO")
    scheme = "" if arg.scheme == "none" else arg.scheme
    task = dict(
        kind="tagging",  # The task; each kind has a recipe of its own.
        labels=(),  # Names of all tags, in the order of the outputs; (): those of the data.
        crf=arg.crf,  # Whether a CRF chooses all tags of a sentence together.
        scheme=scheme,  # How tags spell entities: BIO, BIOES, or "" where they spell none.
        on_ill_formed="raise",  # Tags that break the scheme: raise, repair (counted) or keep.
        tokens="tokens",  # Field of a record that holds the list of words.
        tags="tags",  # Field that holds the list of tags, one a word.
    )
    return finetuning.recipe(
        task,
        arg=arg,
        scratch=families.small_models("bert", "gpt2", "llama", "t5"),
        seq_len=128,
        debug_seq_len=64,
        best_metric="eval/f1_micro" if scheme else "eval/token_accuracy",
    )
