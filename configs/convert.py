r"""Carries weights between runs and folders of `transformers` or `peft`, whichever `source` is.

Command:   python launch.py --config=configs/convert.py --config.source=DIR --config.target=DIR
           python launch.py --config=configs/convert.py --config.source=DIR --config.target=DIR \
               --config.format=gguf
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """Both folders are to be named; the target must be new."""
    config = common.new("convert")
    config.source = ""  # Folder to read: a run, or one of transformers or peft.
    config.target = ""  # New folder: of a run, one of transformers or peft; else a run.
    config.format = "transformers"  # Or for other programs, also of such a folder: gguf, stablehlo.
    config.gguf_type = ""  # Of gguf, how matrices are kept: F32, F16 or Q8_0; "" is F16.
    config.prompt_lens = ()  # Of stablehlo: a program for prompts of up to each, as (64, 512).
    config.cache_len = 0  # Of stablehlo, tokens of a prompt and its text; 0 for all positions.
    config.dtype = ""  # Of stablehlo: float32 or bfloat16; "" is float32.
    config.licence = ""  # For the model card of an export, as apache-2.0; "": its origin's card's.
    config.languages = ()  # For the model card, as ("en", "zh"); (): its origin's, or its corpus's.
    config.base = ""  # Of adapters of peft into a run: the run or folder that they belong to.
    config.adapters = False  # Out of a run with LoRA: its adapters, as a folder of peft.
    config.vocab_size = 0  # Into a run: rows to grow the embedding to; 0 keeps them.
    config.allow_missing = False  # Into a run: draw parameters that the source lacks at random.
    config.allow_unknown = False  # Into a run: leave out weights that the model does not have.
    return config
