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
    config = common.new("generate")
    config.seed = 0  # Of what is drawn: another seed, other texts.
    config.checkpoint = ""  # The run, or folder of transformers, that writes.
    config.prompt = ""  # A text to go on from, or a user's message where there is a chat template.
    config.prompts_file = ""  # In place of `prompt`: one a line, or .jsonl of prompt or messages.
    config.data = dict(
        on_error="raise",  # For lines of prompts_file: raise, or skip, which counts bad ones.
        max_document_bytes=100_000_000,  # Longest line of it, unpacked.
    )
    config.system = ""  # A message that precedes each prompt, where there is a chat template.
    config.raw = False  # Whether prompts stand as they are, without chat template or task.
    config.stop = ()  # Texts that end what is written, besides the tokens that do.
    config.temperature = 0.8  # What logits are divided by before a token is drawn; 0: greedy.
    config.top_k = 0  # Draws among so many of the likeliest tokens; 0: among all.
    config.top_p = 0.95  # Draws among the likeliest tokens of this probability together; 1: all.
    config.min_p = 0.0  # Draws among tokens of this share of the likeliest's probability; 0: all.
    config.repetition_penalty = 1.0  # Above 1: what was read or written comes again less; 1: none.
    config.max_new_tokens = 100  # Most tokens that are written behind a prompt.
    config.num_samples = 1  # Texts for each prompt, at most 10,000.
    config.num_beams = 1  # Candidates of beam search, which draws nothing; 1: no search.
    config.length_penalty = 1.0  # Beams rank by log-probability / length^this; above 0: long ones.
    config.draft = ""  # lookup, or a smaller run: guesses tokens to be checked at once; same texts.
    config.output = ""  # A file of JSON Lines, in place of printing.
    config.parallel = common.parallel()
    return config
