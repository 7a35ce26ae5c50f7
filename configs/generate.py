r"""What does a run write, or answer?

Command:   python launch.py --config=configs/generate.py --config.checkpoint=runs/quickstart \
               --config.prompt="def "
           --config.prompts_file=FILE reads many prompts, and --config.output=FILE.jsonl keeps what
           was written, and why it ended. See docs/using_models.md.
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
    config.prompt = ""  # A text to go on from, or a user's message where there is a chat template.
    config.prompts_file = ""  # In place of `prompt`: one a line, or .jsonl of prompt or messages.
    config.data = dict(
        on_error="raise",  # skip: what cannot be read of `prompts_file` is left out and counted.
        max_document_bytes=100_000_000,  # The longest line of it.
    )
    config.system = ""  # A message that precedes each prompt, where there is a chat template.
    config.raw = False  # Goes on from each prompt as it stands, without chat template or task.
    config.stop = ()  # Texts that end what is written, besides the tokens that do.
    config.temperature = 0.8
    config.top_k = 0
    config.top_p = 0.95
    config.max_new_tokens = 100
    config.num_samples = 1  # Of each prompt, at most 10,000.
    config.num_beams = 1
    config.length_penalty = 1.0
    config.output = ""  # A file of JSON Lines, in place of printing.
    config.parallel = common.parallel()
    return config
