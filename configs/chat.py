r"""What would an assistant say? Learns the assistant's turns of conversations, and those alone.

Command:   python launch.py --config=configs/chat.py --config.init_from=RUN_OR_HF_FOLDER \
               --config.data.train=chats.jsonl
           with a line {"messages": [{"role": "user", "content": ...}, ...]} a conversation, which
           may have "tools" and "documents" beside its messages.
Example:   python launch.py --config=configs/chat.py:debug
           answers what a Python function does.
Expected:  docs/results/finetuning.md

The chat template is kept beside the run's tokenizer, and used again when it generates.
"""

import ml_collections

from configs import families, finetuning


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: model=init_from|llama|gpt2, tokenizer, optimizer, schedule, debug."""
    arg = finetuning.parse_arg(arg)
    task = dict(
        kind="chat",  # The task; each kind has a recipe of its own.
        template="",  # Jinja, or the name of one of init_from's; "" for init_from's own.
        messages="messages",  # Field of a record that holds the conversation's messages.
        date="",  # What templates take for today; "" for the day of the run's first start.
    )
    config = finetuning.recipe(
        task,
        arg=arg,
        scratch=families.small_models("llama", "gpt2"),
        seq_len=512,
        debug_seq_len=288,  # Of a conversation that is cut, the answer is what is lost.
        best_metric="eval/perplexity",
        best_mode="min",
        peak_lr=2e-5,
    )
    if arg.debug:
        config.data.batch_size = 16
    return config
