r"""Which text is the translation of another, or says it in short?

Command:   python launch.py --config=configs/seq2seq.py:task=translation \
               --config.init_from=RUN_OR_HF_FOLDER --config.data.train=train.tsv
           with columns or fields named source and target; `task.prompt` is what a pretrained model
           knows, such as 'translate English to German: {source}'.
Example:   python launch.py --config=configs/seq2seq.py:debug
           says in a sentence what a Python function does.
Expected:  docs/results/finetuning.md

For Chinese or Japanese targets set task.bleu_tokenizer to zh or ja-mecab, and for summaries in
other languages than English task.rouge_tokenizer=unicode: the one for English drops their letters.
"""

import ml_collections

from configs import common, families

_TASKS = {  # With what says which checkpoint is best.
    "summarization": (dict(scorer="summarization"), "eval/rougeL"),
    "translation": (dict(scorer="translation"), "eval/chrf"),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: task=summarization|translation, model=init_from|llama|gpt2|t5, tokenizer, optimizer,
    schedule, debug.
    """
    arg = common.finetuning_arg(arg, task="summarization")
    task, best_metric = common.choose("task", arg.task, _TASKS)
    task |= dict(
        kind="seq2seq",
        source="source",
        target="target",
        prompt="{source}",
        target_len=64,
        label_smoothing=0.1,
        num_beams=4,
        length_penalty=1.0,
        bleu_tokenizer="13a",
        rouge_tokenizer="english",
    )
    config = common.finetuning(
        task,
        arg=arg,
        scratch=families.small_models("llama", "gpt2", "t5"),
        seq_len=512,
        debug_seq_len=80,
        best_metric=best_metric,
        peak_lr=1e-4,
    )
    if arg.debug:  # It learns what a summary is like late: small batches, and many of them.
        config.task.update(num_beams=1, target_len=24)
        config.model.num_layers = 2
        config.data.batch_size = 16
        config.train.num_steps = 1000
        config.eval.every_steps = config.checkpoint.every_steps = 500
    return config
