r"""What does a run write, or answer?

Command:   python launch.py --config=configs/generate.py --config.checkpoint=runs/quickstart \
               --config.prompt="def "
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """One sample of 100 tokens; temperature 0 is greedy, top_k 0 and top_p 1 do not restrict.

    With `num_beams` above 1 the likeliest continuations are searched for and nothing is drawn.
    """
    config = ml_collections.ConfigDict()
    config.experiment = "generate"
    config.seed = 0
    config.checkpoint = ""
    config.prompt = ""
    config.prompts_file = ""  # One prompt a line, in place of `prompt`.
    config.temperature = 0.8
    config.top_k = 0
    config.top_p = 0.95
    config.max_new_tokens = 100
    config.num_samples = 1
    config.num_beams = 1
    config.length_penalty = 1.0
    config.parallel = common.parallel()
    return config
