r"""What happens inside a model while it reads a text?

Command:   python launch.py --config=configs/interpret.py:what=attention \
               --config.checkpoint=RUN_OR_HF_FOLDER --config.texts="('The cat sat.',)"
           python launch.py --config=configs/interpret.py:what=tokens \
               --config.checkpoint=RUN --config.texts_file=texts.txt --workdir=runs/look
Hardware:  a CPU; seconds for a few sentences.
Expected:  interpret.html (one file, which needs no network), interpret.json and interpret.npz.

`what` is sites (lists what can be seen, with shapes and bytes, and runs nothing), attention, or
tokens; docs/interpret.md says what each shows.
"""

import ml_collections

from configs import common

_WHATS = ("sites", "attention", "tokens")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: what=sites|attention|tokens."""
    arg = common.parse_arg(arg, what="sites")
    common.choose("what", arg.what, dict.fromkeys(_WHATS))
    config = common.new("interpret")
    config.what = arg.what  # What is looked at.
    config.checkpoint = ""  # The run, or folder of transformers, that is looked into.
    config.texts = ()  # Texts that it reads.
    config.texts_file = ""  # A file of texts or records in place of these.
    config.texts_format = "auto"  # jsonl, text (a record a line), or auto: by suffix or first line.
    config.max_document_bytes = 100_000_000  # Longest record of the file.
    if arg.what == "attention":
        config.layers = ()  # Indices of the layers that are shown, from 0; (): all.
        config.heads = ()  # Indices of their heads; (): all.
    return config
