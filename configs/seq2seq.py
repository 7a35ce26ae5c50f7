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

from configs import common, families, finetuning

_BEST_METRIC = {"summarization": "eval/rougeL", "translation": "eval/chrf"}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: task=summarization|translation, model=init_from|llama|gpt2|t5, tokenizer, optimizer,
    schedule, debug.
    """
    arg = finetuning.parse_arg(arg, task="summarization")
    best_metric = common.choose("task", arg.task, _BEST_METRIC)
    task = dict(
        kind="seq2seq",  # The task; each kind has a recipe of its own.
        scorer=arg.task,  # translation, by BLEU and chrF; or summarization, by ROUGE.
        source="source",  # Field of a record that holds what is read.
        target="target",  # Field of what is to be written, or a list of such texts.
        prompt="{source}",  # What the model reads; {source} stands for that field's text.
        target_len=64,  # Most tokens that are learned or written.
        label_smoothing=0.1,  # Share of a target that is spread over the whole vocabulary.
        num_beams=4,  # Candidates of beam search when it is evaluated; 1: greedy.
        length_penalty=1.0,  # Beams rank by log-probability / length^this; above 0: long ones.
        bleu_tokenizer="13a",  # Words of BLEU: 13a, zh, ja-mecab, ...; as in sacrebleu.
        rouge_tokenizer="english",  # Words of ROUGE: english (a to z, 0 to 9), or unicode.
    )
    config = finetuning.recipe(
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
