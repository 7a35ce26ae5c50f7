r"""How does a model learn a language that its tokenizer spells in many pieces?

Command:   python launch.py --config=configs/extend.py --config.source=RUN_OR_HF_FOLDER \
               --config.text='zh/*.txt' --config.num_pieces=4000 --config.target=runs/extended
Hardware:  a CPU; seconds for each million characters.
Expected:  tokens a character, before and now. With init=mean_of_pieces, the old language is
           predicted as before; docs/languages.md has the numbers.
Tried:     init=mean, random and focus: the first two cost the old language at once.

The target is a run at step 0. Go on with `configs/adapt.py`, on both languages: without text of the
old one, that is lost whatever the rows began as.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """Source, text and target are to be named; the target must be new."""
    config = common.new("extend")
    config.source = ""  # The run, or folder of transformers, that gets more tokens.
    config.target = ""  # New folder, of the run that is made.
    config.text = ""  # Of the new language: globs of files, a document a file, or curated:WORKDIR.
    config.num_pieces = 4000  # New tokens, at most.
    config.target_fertility = 0.0  # As few new tokens as leave so many a character; 0: num_pieces.
    config.init = "mean_of_pieces"  # New rows: mean_of_pieces, mean, focus or random.
    config.multiple_of = 1  # What the number of rows is rounded up to a multiple of.
    config.seed = 0  # Of init=random.
    return config
