r"""Is a rare kind of text learnt better where it comes at the end, or spread over the whole run?

Command:   python launch.py --config=configs/mixture.py
           python launch.py --config=configs/mixture.py:at_end --workdir=runs/mixture-at-end
           python launch.py --config=configs/mixture.py --sweep        # both, with three seeds each
Hardware:  2 CPU cores.
Expected:  not run yet at full size; `debug` takes seconds.

Two kinds of the standard library's files, each with files held out: modules, and the tables of
`encodings`, of which a tenth of all rows is made in both cases.

Of one's own corpora: --config=configs/gpt2.py:sources=en+zh --config.data.sources.en.source=text
--config.data.sources.en.train='en/*.txt' ... (docs/data.md).
"""

import sysconfig

import ml_collections

from configs import common, quickstart, sweeping

# (Share of the run, weights from there on): 0.8 x 0.05 + 0.2 x 0.3 is a tenth, too.
_AT_END = (
    (0.0, dict(modules=0.95, encodings=0.05)),
    (0.8, dict(modules=0.7, encodings=0.3)),
)
_SPREAD = ((0.0, dict(modules=0.9, encodings=0.1)),)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: at_end=false|true, objective, tokenizer, optimizer, schedule, debug."""
    arg = common.parse_arg(
        arg,
        at_end=False,
        objective="causal",
        tokenizer="bpe",
        optimizer="muon",
        schedule="cosine",
        debug=False,
    )
    others = ",".join(f"{name}={value}" for name, value in arg.items() if name != "at_end")
    config = quickstart.get_config(f"sources=modules+encodings,{others}")
    lib = sysconfig.get_path("stdlib")
    config.data.sources.modules.update(
        source="text", train=f"{lib}/[_c-z]*.py", validation=f"{lib}/[ab]*.py"
    )
    config.data.sources.encodings.update(
        source="text", train=f"{lib}/encodings/[!i]*.py", validation=f"{lib}/encodings/i*.py"
    )
    config.data.mixture.stages = _AT_END if arg.at_end else _SPREAD
    return config


def sweep() -> list[sweeping.Overrides]:
    """Whether the end is better than all the way, and by how much more than chance."""
    stages = sweeping.grid({"data.mixture.stages": [_SPREAD, _AT_END]})
    return sweeping.product(stages, sweeping.seeds(3))
