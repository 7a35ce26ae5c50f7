r"""How does a run do on the tasks of lm_eval, which others report?

Command:   pip install lm_eval
           python launch.py --config=configs/harness.py --config.checkpoint=RUN \
               --config.tasks=lambada_openai,hellaswag --workdir=runs/harness
           `include_path` names a folder of tasks of your own.

Contexts begin as the tokenizer's own post-processor begins them, as in lm_eval itself, or as
`data.add_bos` says for a run that was pretrained here.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """Log-likelihoods, rolling ones, and greedy text; all exact for any batch size."""
    config = common.new("harness")
    config.checkpoint = ""  # The run, or folder of transformers, that is scored.
    config.tasks = ""  # Names of lm_eval's tasks, with commas between.
    config.include_path = ""  # Folder of tasks of one's own, as lm_eval has them; "": none.
    config.default_tasks = True  # Whether lm_eval's own tasks are known too.
    config.num_fewshot = -1  # Examples before each question; -1: as each task says.
    config.limit = 0  # Questions of each task that are asked; 0: all.
    config.add_bos = placeholder(bool)  # Whether contexts begin with <s>; None: as the run's texts.
    config.apply_chat_template = False  # Whether contexts are laid out by the run's template.
    config.system_instruction = ""  # Text that precedes every context; "": none.
    config.fewshot_as_multiturn = False  # Whether examples are turns of a conversation.
    config.max_len = 0  # Tokens that are read at once; 0 for the model's positions.
    config.batch_size = 8  # Contexts at a time; changes no number.
    config.log_samples = False  # Whether results.json holds each question and answer.
    config.seed = 0  # Of the choice of examples, and of what is drawn.
    config.parallel = common.parallel()
    return config
