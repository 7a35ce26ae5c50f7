r"""How does a run do on the tasks of lm_eval, which others report?

Command:   pip install lm_eval
           python launch.py --config=configs/harness.py --config.checkpoint=RUN \
               --config.tasks=lambada_openai,hellaswag --workdir=runs/harness
           `include_path` names a folder of tasks of your own.

Contexts begin as the tokenizer's own post-processor begins them, as in lm_eval itself, or as
`data.add_bos` says for a run that was pretrained here.
"""

import ml_collections
from ml_collections import config_dict

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """Log-likelihoods, rolling ones, and greedy text; all exact for any batch size."""
    config = ml_collections.ConfigDict()
    config.experiment = "harness"
    config.checkpoint = ""
    config.tasks = ""
    config.include_path = ""
    config.default_tasks = True  # Whether lm_eval's own tasks are known too.
    config.num_fewshot = -1  # -1: as each task says.
    config.limit = 0  # Examples of each task; 0 for all.
    # Whether contexts begin with the first token; None as the tokenizer or the run begins texts.
    config.add_bos = config_dict.placeholder(bool)
    config.apply_chat_template = False  # Lays each context out by the run's chat template.
    config.system_instruction = ""
    config.fewshot_as_multiturn = False  # Examples as turns of the conversation.
    config.max_len = 0  # Tokens that are read at once; 0 for the model's positions.
    config.batch_size = 8
    config.log_samples = False
    config.seed = 0
    config.parallel = common.parallel()
    return config
