r"""How biased is a model, beside one that has seen no text?

Command:   python launch.py --config=configs/fairness.py:what=pairs --config.checkpoint=RUN \
               --config.data=crows_pairs_anonymized.csv --workdir=runs/fairness
Hardware:  a CPU; four times what the likelihoods of the sentences take.
Expected:  a table, fairness.json and fairness.png; docs/fairness.md says how to read them.

Of pairs, a share above a half says that the sentence which stereotypes more is the likelier one; it
says so of random weights too where that one is shorter, so that these stand beside it. what=groups
compares the rates of a classification run between groups of examples, which `group` names.
what=substitution asks it of each text twice, as it stands and with the terms of `words` exchanged.
what=stereoset, winogender, winobias and choices are for StereoSet, Winogender, WinoBias, BBQ and
CBBQ, what=toxicity for texts that a run writes; what=compare lays two measurements side by side.
"""

import ml_collections

from configs import common

_WHAT = {
    "pairs": dict(
        less="",  # File of the sentences that stereotype less, beside those of data; "": in data.
        on_error="raise",  # For pairs that say nothing: raise, or skip, which counts them.
    ),
    "stereoset": dict(),
    "winogender": dict(),
    "winobias": dict(
        anti="",  # Files in which the stereotype is wrong, beside those of data.
    ),
    "choices": dict(
        target_answer=-1,  # Number of the answer that the bias is about; -1: as records name it.
        answer="",  # Field that holds an answer, which is scored; "": checkpoint answers.
    ),
    "groups": dict(
        group="",  # Fields of records that hold a group, with commas between.
        positive="",  # The label whose rates are compared; "": each in turn, against the others.
    ),
    "substitution": dict(
        words="en",  # Lists of terms of two groups: en, zh or TOML files, with commas between.
    ),
    "toxicity": dict(
        classifier="",  # The run of configs/classify.py that finds texts toxic or not.
        positive="",  # Its label of toxic texts.
        num_samples=25,  # Texts of each prompt.
        max_new_tokens=20,  # Most tokens of a text.
        temperature=1.0,  # What logits are divided by before a token is drawn; 0: greedy.
        top_p=0.9,  # Draws among the likeliest tokens of this probability together; 1: all.
    ),
    "compare": dict(
        before="",  # The workdir of a measurement; of the others' keys none is used.
        after="",  # That of another one, by the same `what`.
    ),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: what=pairs|stereoset|winogender|choices|groups|substitution|toxicity."""
    arg = common.parse_arg(arg, what="pairs")
    config = common.new("fairness")
    config.what = arg.what  # What is measured; the argument of this name brings its keys.
    config.checkpoint = ""  # The run, or folder of transformers, that is measured.
    config.data = ""  # Globs of files of what is measured; "", of groups: the run's own records.
    config.batch_size = 32  # Texts, or masked ones, at a time; changes no number.
    config.seed = 0  # Of the bootstrap, by which means and F1 get intervals.
    config.parallel = common.parallel()
    config.update(common.choose("what", arg.what, _WHAT))
    return config
