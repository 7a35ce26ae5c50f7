"""The claims of papers that the ledger keeps, and how runs are held to them."""

import dataclasses
from collections.abc import Callable, Sequence

from benchmarks.quality.claim_measures import (
    Measured,
    crf,
    grokking,
    label_efficiency,
    lora,
    mup,
    optimizers,
    reaches,
    scaling,
)
from lm.results.reading import RunRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A row of the ledger.

    name: of the folder of its runs.
    commands: that make the runs.
    debug: flags of a run of seconds that goes the same way.
    metrics: that `measure` reads.
    measure: finished runs -> what they say; None where none were made.
    """

    name: str
    claim: str
    paper: str
    target: str
    commands: tuple[str, ...]
    debug: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    measure: Callable[[Sequence[RunRecord]], Measured] | None = None


def _fetched(model: str) -> str:
    """The command that makes a folder of transformers, named as the model."""
    files = "config.json model.safetensors tokenizer.json tokenizer_config.json"
    return f"hf download {model} {files} --local-dir {model.partition('/')[2]}"


_LAUNCH = "python launch.py"
_LOSS = ("eval/loss", "train/step_seconds")
_GPT2_TOKENIZER = "hf download openai-community/gpt2 tokenizer.json --local-dir gpt2"
_GPT2 = (
    f"{_LAUNCH} --config=configs/gpt2.py:size=small,tokenizer=gpt2/tokenizer.json "
    "--config.data.train='train[:99%]' --config.data.validation='train[99%:]' "
    "--config.data.field=text"
)
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
_ENCODER = f"{_LAUNCH} --config=configs/families.py:family=bert --workdir=runs/encoder"
_RANDOM = (
    f"{_LAUNCH} --config=configs/families.py:family=bert --config.train.num_steps=1 "
    "--config.optimizer.warmup_steps=0 --config.optimizer.peak_lr=0.0 --workdir=runs/random_encoder"
)
_PRETRAINING = (
    "--config.data.seq_len=128 --config.eval.sample_tokens=0 --config.eval.compressors=False"
)
_CLASSIFY = (
    "--config=configs/classify.py:optimizer=adamw --config.train.num_epochs=0.0 "
    "--config.train.num_steps=200 --config.data.truncate=True"
)
_NARROW = {"model_dim": 4, "num_heads": 1, "head_dim": 4, "mlp_dim": 16}
_TINY_BERT = ("--config=configs/classify.py:debug,model=bert", "--config.train.num_steps=2")

CLAIMS = (
    Claim(
        name="grokking",
        claim="adding modulo a prime is found long after the training sums are known",
        paper="Power et al. 2022, figure 1",
        target="validation accuracy passes 0.95 at 5 times the step of training accuracy, or later",
        commands=(f"{_LAUNCH} --config=configs/grokking.py --sweep --workdir=runs/grokking",),
        debug=("--config=configs/grokking.py:debug",),
        metrics=("eval/accuracy", "training_set/accuracy", "train/step_seconds"),
        measure=grokking,
    ),
    Claim(
        name="transfer",
        claim="under muP the best learning rate stays; without, it moves with the width",
        paper="Yang et al. 2022, figure 1",
        target="at most an octave with muP from width 64 to 256, and less than without",
        commands=(
            f"{_LAUNCH} --config=configs/quickstart.py:optimizer=adamw "
            "--sweep=configs/sweeps/mup_transfer.py --workdir=runs/transfer",
        ),
        debug=(
            "--config=configs/quickstart.py:debug,optimizer=adamw",
            *(f"--config.model.mup_{key}={x}" for key, x in _NARROW.items()),
        ),
        metrics=("eval/loss", "train/step_seconds"),
        measure=mup,
    ),
    Claim(
        name="scaling",
        claim="loss is a power law of parameters and tokens",
        paper="Hoffmann et al. 2022, section 3.3; Besiroglu et al. 2024",
        target="exponents above 0, and the widest models' losses foretold within 2 %",
        commands=(
            f"{_LAUNCH} --config=configs/quickstart.py {_PRETRAINING} "
            "--sweep=configs/sweeps/scaling.py --workdir=runs/scaling",
        ),
        debug=("--config=configs/quickstart.py:debug", "--config.train.num_steps=2"),
        metrics=("eval/loss", "train/tokens", "train/step_seconds"),
        measure=scaling,
    ),
    Claim(
        name="optimizers",
        claim="Muon reaches AdamW's loss in fewer steps, at an equal budget of tuning",
        paper="Jordan et al. 2024; Chen et al. 2023, for Lion",
        target="at most 0.75 of the steps",
        commands=(
            f"{_LAUNCH} --config=configs/quickstart.py {_PRETRAINING} --config.eval.every_steps=20 "
            "--sweep=configs/sweeps/optimizers.py --workdir=runs/optimizers",
        ),
        debug=("--config=configs/quickstart.py:debug,optimizer=lion", "--config.train.num_steps=2"),
        metrics=("eval/loss", "train/step_seconds"),
        measure=optimizers,
    ),
    Claim(
        name="lora",
        claim="adapters of a low rank do as well as training all parameters",
        paper="Hu et al. 2021, tables 2 and 6",
        target="rank 8 at most 0.02 of accuracy below",
        commands=(
            _ENCODER,
            f"{_LAUNCH} {_CLASSIFY} --config.init_from=runs/encoder "
            "--sweep=configs/sweeps/lora.py --workdir=runs/lora",
        ),
        debug=(*_TINY_BERT, "--config.lora.rank=2", "--config.lora.targets=query/kernel"),
        metrics=("eval/accuracy", "train/step_seconds"),
        measure=lora,
    ),
    Claim(
        name="crf",
        claim="a CRF tags better than a softmax for each token",
        paper="Lample et al. 2016, section 5.4",
        target="1.79 F1 more",
        commands=(
            f"{_LAUNCH} --config=configs/tag.py:debug --sweep=configs/sweeps/crf.py "
            "--workdir=runs/crf",
        ),
        debug=("--config=configs/tag.py:debug,crf=true", "--config.train.num_steps=2"),
        metrics=("eval/f1_micro", "train/step_seconds"),
        measure=crf,
    ),
    Claim(
        name="label_efficiency",
        claim="pretraining helps when labels are few",
        paper="Devlin et al. 2019; Howard & Ruder 2018, figure 3",
        target="better at each of 100, 1,000 and 5,000 examples",
        commands=(
            _ENCODER,
            _RANDOM,
            f"{_LAUNCH} {_CLASSIFY} --config.data.source=python_stdlib:snippets "
            "--config.data.seq_len=64 --sweep=configs/sweeps/label_efficiency.py "
            "--workdir=runs/label_efficiency",
        ),
        debug=(*_TINY_BERT, "--config.data.num_examples=100"),
        metrics=("eval/accuracy", "train/step_seconds"),
        measure=label_efficiency,
    ),
    Claim(
        name="gpt2_openwebtext",
        claim="GPT-2 124M on OpenWebText",
        paper="nanoGPT's reproduction, 600,000 steps",
        target="validation loss 2.85, at most 0.02 above",
        commands=(
            _GPT2_TOKENIZER,
            f"{_GPT2} --config.data.source=hf:Skylion007/openwebtext "
            "--config.train.num_steps=600000 --workdir=runs/gpt2_openwebtext",
        ),
        debug=("--config=configs/gpt2.py:debug", "--config.train.num_steps=2"),
        metrics=_LOSS,
        measure=reaches("eval/loss", 2.85, 0.02, sign=-1),
    ),
    Claim(
        name="gpt2_fineweb",
        claim="GPT-2 124M on 10B tokens of FineWeb",
        paper="llm.c's reproduction",
        target="validation loss 3.28, at most 0.02 above",
        commands=(
            _GPT2_TOKENIZER,
            f"{_GPT2} --config.data.source=hf:HuggingFaceFW/fineweb:sample-10BT "
            "--config.train.num_steps=19000 --workdir=runs/gpt2_fineweb",
        ),
        debug=("--config=configs/gpt2.py:debug", "--config.train.num_steps=2"),
        metrics=_LOSS,
        measure=reaches("eval/loss", 3.28, 0.02, sign=-1),
    ),
    Claim(
        name="bert_glue",
        claim="BERT-base on GLUE",
        paper="Devlin et al. 2019, table 1",
        target="79.6 on average, 1 below at most (of test splits; eight tasks)",
        commands=(
            _fetched("google-bert/bert-base-uncased"),
            f"{_LAUNCH} --config=configs/classify.py --config.init_from=bert-base-uncased "
            "--sweep=configs/sweeps/glue.py --workdir=runs/bert_glue",
        ),
        debug=_TINY_BERT,
    ),
    Claim(
        name="bert_squad",
        claim="BERT-base on SQuAD 1.1",
        paper="Devlin et al. 2019, table 2",
        target="F1 88.5, at most 0.5 below",
        commands=(
            _fetched("google-bert/bert-base-uncased"),
            *(f"curl -O {_SQUAD}/{name}-v1.1.json" for name in ("train", "dev")),
            f"{_LAUNCH} --config=configs/answer.py --config.init_from=bert-base-uncased "
            "--config.data.train=train-v1.1.json --config.data.validation=dev-v1.1.json "
            "--sweep=configs/sweeps/seeds.py --workdir=runs/bert_squad",
        ),
        debug=("--config=configs/answer.py:debug", "--config.train.num_steps=2"),
        metrics=("eval/f1", "train/step_seconds"),
        measure=reaches("eval/f1", 88.5, 0.5),
    ),
    Claim(
        name="bert_conll",
        claim="BERT-base on CoNLL-2003",
        paper="Devlin et al. 2019, table 7",
        target="F1 0.924, at most 0.005 below",
        commands=(
            _fetched("google-bert/bert-base-cased"),
            "# eng.* are those of the shared task, from its hosts: the Reuters corpus is not free",
            f"{_LAUNCH} --config=configs/tag.py --config.init_from=bert-base-cased "
            "--config.task.on_ill_formed=repair --config.data.train=eng.train.conll "
            "--config.data.validation=eng.testb.conll --sweep=configs/sweeps/seeds.py "
            "--workdir=runs/bert_conll",
        ),
        debug=("--config=configs/tag.py:debug", "--config.train.num_steps=2"),
        metrics=("eval/f1_micro", "train/step_seconds"),
        measure=reaches("eval/f1_micro", 0.924, 0.005),
    ),
    Claim(
        name="t5_glue",
        claim="T5-small on GLUE",
        paper="Raffel et al. 2020, table 14",
        target="77.4 on average, 1 below at most (of test splits; nine tasks, trained together)",
        commands=(
            _fetched("google-t5/t5-small"),
            f"{_LAUNCH} --config=configs/classify.py --config.init_from=t5-small "
            "--sweep=configs/sweeps/glue.py --workdir=runs/t5_glue",
        ),
        debug=("--config=configs/classify.py:debug,model=t5", "--config.train.num_steps=2"),
    ),
)
