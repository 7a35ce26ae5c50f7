"""Pieces shared by the recipes for labelled data, and by what reads their runs."""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import common


def task_settings(is_scored: bool) -> dict:
    """The task block of what reads a run: what replaces the settings it was trained with.

    They name the fields of records, which a folder of `transformers` says nothing of, or else a
    scheme of tags or a scorer. None keeps what was trained with; without `is_scored` there is
    nothing that predictions are compared with.
    """
    read = dict(
        text=placeholder(str),  # Field of a record that holds the text; None: as trained.
        pair=placeholder(str),  # Field of a second text; "": none; None: as trained.
        tokens=placeholder(str),  # Field of the list of words to tag; None: as trained.
        source=placeholder(str),  # Field of the text to translate or sum up; None: as trained.
        messages=placeholder(str),  # Field of a conversation's messages; None: as trained.
        unanswerable=placeholder(bool),  # Whether there may be no answer; None: as trained.
    )
    right = dict(
        label=placeholder(str),  # Field of the right label or number; None: as trained.
        tags=placeholder(str),  # Field of the right tags, one a word; None: as trained.
        scheme=placeholder(str),  # Of these: BIO, BIOES, or "" for none; None: as trained.
        target=placeholder(str),  # Field of the right text, or of several; None: as trained.
        scorer=placeholder(str),  # As in the task's own recipe; None: as trained.
    )
    return read | right if is_scored else read


_ARGUMENTS = dict(model="init_from", tokenizer="bpe", optimizer="", schedule="linear", debug=False)


def parse_arg(arg: str | None, **more) -> ml_collections.ConfigDict:
    """What every recipe for labelled data takes: model, tokenizer, optimizer, schedule, debug.

    Without `optimizer`, AdamW trains a pretrained model, and Muon one of no training.
    """
    return common.parse_arg(arg, **more, **_ARGUMENTS)


def recipe(
    task: dict,
    *,
    arg: ml_collections.ConfigDict,
    scratch: dict[str, dict],
    seq_len: int,
    debug_seq_len: int,
    best_metric: str,
    best_mode: str = "max",
    peak_lr: float = 5e-5,
    batch_size: int = 32,
    num_epochs: float = 3.0,
) -> ml_collections.ConfigDict:
    """A recipe for labelled data, with the rates of Devlin et al. 2019, appendix A.3.

    Args:
      task: the task block.
      arg: the config's arguments.
      scratch: model blocks by the names that `arg.model` may have, for a model of no training; with
        `debug`, the first one trains for about a minute on two CPU cores.
      seq_len: the most tokens of an example; debug_seq_len: the same with `debug`.
      best_metric, best_mode: which checkpoint counts.
    """
    config = common.trunk("finetune")
    is_new = arg.debug or arg.model != "init_from"
    rule = arg.optimizer or ("muon" if is_new else "adamw")
    if is_new:  # Nothing was learned that could be lost.
        peak_lr = 1e-2 if rule == "muon" else 1e-3
    config.num_seeds = 1  # Runs from consecutive seeds, whose mean is reported.
    config.task = task
    config.data = dict(
        source="",  # Of records: files, hf:NAME, ...; "": files, or else this recipe's example.
        train="",  # Globs of training files, or a split of the source.
        validation="",  # Globs of validation files, or a split; "": a share of the other records.
        validation_share=0.1,  # Share of the training records that is held out for validation="".
        num_examples=0,  # Training records that are used, chosen by hash; 0: all.
        augment="",  # Lists of terms (en, zh, files) that are learned exchanged, too; "": none.
        seq_len=seq_len,  # Most tokens of an example.
        batch_size=batch_size,  # Examples a step, over all devices, hosts and micro-batches.
        batch_size_per_device=0,  # Times the number of devices, in place of batch_size; 0: not.
        multiple=32,  # Rows are as long as the longest example, rounded up to this in tokens.
        truncate=False,  # Whether examples of more than seq_len tokens are cut; else refused.
        on_error="raise",  # For records that do not suit: raise, or skip, which counts them.
        max_document_bytes=1_000_000_000,  # Longest line or value of a file, unpacked.
    )
    config.optimizer = common.optimizer(
        rule, arg.schedule, peak_lr=peak_lr, warmup_steps=0, warmup_share=0.1
    )
    if "final_lr_ratio" in config.optimizer:
        config.optimizer.final_lr_ratio = 0.0
    config.train = common.train(0, num_epochs) | dict(
        frozen="",  # Regular expression of the paths of parameters that stay as they are.
    )
    config.lora = dict(
        rank=0,  # Of low-rank adapters, which are trained with the head alone; 0: none.
        alpha=16.0,  # What an adapter adds is scaled by alpha / rank.
        targets="",  # Regular expression of the paths of kernels that have adapters.
        rank_stabilized=False,  # Whether adapters are scaled by alpha / sqrt(rank), as in rsLoRA.
        dora=False,  # Whether lengths of weights are learned by themselves, as in DoRA.
    )
    config.eval = dict(
        every_steps=100,  # Steps between evaluations; 0: at the end alone.
        batch_size=batch_size,  # Examples at a time, over all devices; changes no number.
        on_training=False,  # Whether the training split is evaluated, too.
    )
    config.checkpoint.update(every_steps=100, best_metric=best_metric, best_mode=best_mode)
    if is_new:
        name = next(iter(scratch)) if arg.model == "init_from" else arg.model
        config.model = common.choose("model", name, scratch)
        config.tokenizer = common.tokenizer(arg.tokenizer, config.model.vocab_size)
    else:
        # Runs are short, and on CPUs a loop over layers is as fast, and compiles in less.
        config.model = common.with_dropout(0.1) | {"scan_layers": "auto"}
    if arg.debug:
        config.data.update(seq_len=debug_seq_len, multiple=debug_seq_len)  # One program.
        config.data.truncate = True
        config.train.update(num_epochs=0.0, num_steps=120)
        config.eval.every_steps = config.checkpoint.every_steps = 60
    return config
