r"""What does a run answer to many clients at once, over HTTP, as OpenAI's protocol has it?

Command:   pip install -r requirements-serve.txt
           python launch.py --config=configs/serve.py --config.checkpoint=runs/quickstart
           curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \
               -d '{"prompt": "def ", "max_tokens": 20}'

What is written is, to the bit, what configs/generate.py writes of the same prompt and seed, whoever
else is served meanwhile. Several models: --config.checkpoint=runs/a,small=runs/b. See
docs/serving.md.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """Serves this machine alone; beyond it, a key is needed: `key_file`, or LM_API_KEY."""
    config = common.new("serve")
    config.checkpoint = ""  # Runs, or folders of transformers, with commas; NAME=FOLDER names one.
    config.host = "127.0.0.1"  # Where it listens; 0.0.0.0 or :: for all addresses, with a key.
    config.port = 8000  # Where it listens; 0: one that is free, which the ready line names.
    config.num_slots = 8  # Texts that are written at once, of each model.
    config.max_len = 0  # Tokens of a prompt and its text, at most; 0: the model's positions.
    config.max_waiting = 64  # Prompts, or texts of tasks, that may wait; others are refused (429).
    config.prefix_bytes = 268_435_456  # Memory for what earlier prompts share with later ones.
    config.exact = True  # Whether no bit of a text depends on its company, which may take longer.
    config.batch_size = 32  # Records of a task that are read at once; changes no number.
    config.pooling = "mean"  # What of a text's tokens its vector is: their mean, or the first.
    config.int8 = False  # Whether matrices are rounded to 8 bits: other texts, from less memory.
    config.warm = True  # Whether all is compiled before the first answer, and not when it comes.
    config.max_body_bytes = 1_000_000  # Of a request, at most.
    config.max_connections = 512  # Open at once, idle ones too; others get 503 and are closed.
    config.drain_seconds = 30.0  # After SIGTERM, for texts that are under way; then they are cut.
    config.key_file = ""  # Holds the key that clients must send; LM_API_KEY may, instead.
    config.allowed_hosts = ()  # Names that clients may call it by, besides this machine's own.
    config.parallel = common.parallel()
    return config
