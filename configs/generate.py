r"""What does a run write?

Command:   python launch.py --config=configs/generate.py --config.checkpoint=runs/quickstart \
               --config.prompt="def "
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """One sample of 100 tokens; temperature 0 is greedy, top_k 0 and top_p 1 do not restrict."""
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
    return config
