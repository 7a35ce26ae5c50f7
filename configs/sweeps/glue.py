r"""How well does a pretrained encoder do on the tasks of GLUE (Wang et al. 2019)?

Command:   python launch.py --config=configs/classify.py --config.init_from=DIR_OF_BERT \
               --sweep=configs/sweeps/glue.py --workdir=runs/bert_glue
           init_from is a folder of transformers, or of a run. TFDS downloads the data.
Hardware:  a GPU of 16 GB; not run yet.

The tasks that Devlin et al. 2019, table 1, average over, each scored on its validation split, since
the labels of the test split are kept by the benchmark.
"""

from configs.sweeping import Overrides, product, seeds

_FIELDS = {  # Of each task: the first text and, where there are two, the second one.
    "mnli": ("premise", "hypothesis"),
    "qqp": ("question1", "question2"),
    "qnli": ("question", "sentence"),
    "sst2": ("sentence", ""),
    "cola": ("sentence", ""),
    "stsb": ("sentence1", "sentence2"),
    "mrpc": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
}


def sweep(num_seeds: int = 3) -> list[Overrides]:
    """Every task from every seed."""
    return product([_task(name) for name in _FIELDS], seeds(num_seeds))


def _task(name: str) -> Overrides:
    text, pair = _FIELDS[name]
    overrides = {
        "data.source": f"tfds:glue/{name}",
        "data.train": "train",
        "data.validation": "validation_matched" if name == "mnli" else "validation",
        "task.text": text,
        "task.pair": pair,
    }
    if name == "stsb":
        overrides["arg"] = "kind=regression"
    if name == "cola":
        overrides["checkpoint.best_metric"] = "eval/matthews"
    return overrides
