r"""In how many pieces do tokenizers spell languages?

Command:   python launch.py --config='configs/fertility.py:en=en/*.txt,zh=zh/*.txt' \
               --config.tokenizers=RUN,FOLDER_OF_TRANSFORMERS --workdir=runs/fertility
Hardware:  a CPU; about ten seconds for each million tokens.
Expected:  a table, fertility.json and fertility.png, with a bar for each tokenizer and language.

The arguments name languages and the globs of their files. A tokenizer that was made for a language
spells it in about 4 bytes a token, and few of its words are continued; docs/languages.md.
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: LANGUAGE=GLOB, as often as there are languages."""
    config = common.new("fertility")
    config.tokenizers = ""  # Runs, folders of transformers and files, with commas between.
    named = tuple(filter(None, (arg or "").split(",")))
    config.texts = named  # LANGUAGE=GLOBS, or LANGUAGE=curated:WORKDIR, of each.
    config.limit = 0  # Documents of each language that are counted; 0: all.
    return config
