"""The options of training with their values, which of them are refused together, and few cases that
hold every other pair of values.

Most faults take one or two settings to show (Kuhn et al. 2004, "Software fault interactions and
implications for software testing"), so cases that hold each pair find most of what all would.
"""

import itertools
import types
from collections.abc import Iterator, Mapping, Sequence

Case = dict[str, str]
Pair = frozenset[tuple[str, str]]
Rule = tuple[str, Sequence[str], str, Sequence[str]]

_DECODER, _ENCODER, _BOTH = (
    ("causal", "prefix", "mixture"),
    ("masked", "whole words"),
    ("span", "ul2"),
)
PRETRAINING = (*_DECODER, *_ENCODER, *_BOTH)
_LABELLING = ("classes", "many labels", "numbers", "tags", "tags by a CRF", "answers")
TASKS = (*_LABELLING, "seq2seq", "seq2seq by beams", "chat")
# The first value of each is the plain one. What decides most comes first: so cases are made.
OPTIONS: Mapping[str, Sequence[str]] = {
    "work": (*PRETRAINING, *TASKS),
    "family": ("gpt2", "llama", "bert", "t5"),
    "mesh": ("data", "fsdp", "tensor", "sequence", "pmap"),
    "devices": ("4", "8"),
    "init_from": ("none", "run", "transformers"),
    "tokenizer": ("bpe", "bytes", "unigram", "file"),
    "optimizer": ("adamw", "lion", "adafactor", "sgd", "muon"),
    "schedule": ("cosine", "constant", "linear", "rsqrt", "wsd"),
    "adapters": ("none", "lora", "rank-stabilized", "dora"),
    "frozen": ("none", "embeddings"),
    "attention": ("auto", "einsum", "blocked"),
    "dtype": ("float32", "bfloat16"),
    "dropout": ("0", "0.1"),
    "matmul": ("plain", "fp8"),
    "remat": ("none", "dots", "full"),
    "scan": ("false", "true"),
    "mup": ("none", "base"),
    "loss blocks": ("1", "2"),
    "smoothing": ("0", "0.1"),
    "accumulate": ("1", "2"),
    "ema": ("0", "0.9"),
    "layer decay": ("1", "0.8"),
    "clipping": ("1", "0"),
    "evaluation": ("2", "1", "0"),
    "best": ("none", "best", "patience"),
    "samples": ("0", "4"),
    "seeds": ("1", "2"),
    "then": ("nothing", "resume", "evaluate", "generate", "export"),
}
_DECODERS = ("gpt2", "llama")
# What is refused together: any value of the first with any of the second.
REFUSED: Sequence[Rule] = (
    ("work", ("causal",), "family", ("bert", "t5")),
    ("work", ("prefix", "mixture"), "family", ("bert",)),
    ("work", _ENCODER, "family", (*_DECODERS, "t5")),
    ("work", _BOTH, "family", (*_DECODERS, "bert")),
    ("work", ("seq2seq", "seq2seq by beams"), "family", ("bert",)),
    ("work", ("chat",), "family", ("bert", "t5")),
    ("work", (*_ENCODER, *_BOTH), "tokenizer", ("bytes",)),
    ("work", PRETRAINING, "adapters", ("lora", "rank-stabilized", "dora")),
    ("work", PRETRAINING, "frozen", ("embeddings",)),
    ("work", PRETRAINING, "seeds", ("2",)),
    ("work", TASKS, "loss blocks", ("2",)),
    ("work", TASKS, "samples", ("4",)),
    ("work", TASKS, "mup", ("base",)),
    ("work", (*_LABELLING, "chat"), "smoothing", ("0.1",)),
    ("work", _LABELLING, "then", ("generate",)),
    ("family", ("bert",), "then", ("generate",)),
    ("family", ("bert", "t5"), "samples", ("4",)),
    ("family", ("bert", "t5"), "mup", ("base",)),
    ("family", ("bert", "t5"), "attention", ("blocked",)),
    ("family", ("llama",), "dropout", ("0.1",)),
    ("work", ("prefix", "mixture"), "attention", ("blocked",)),
    ("attention", ("blocked",), "dtype", ("bfloat16",)),
    ("attention", ("blocked",), "dropout", ("0.1",)),
    ("mup", ("base",), "optimizer", ("adafactor",)),
    ("mup", ("base",), "init_from", ("run", "transformers")),
    ("evaluation", ("0",), "best", ("best", "patience")),
)


# Not tried: a mixture of T5's is called ul2 here; what `transformers` has a place for depends on
# the task and the family both (tests/exported_test.py).
_LEFT_OUT = {frozenset({("work", "mixture"), ("family", "t5")})} | {
    frozenset({("work", task), ("then", "export")}) for task in TASKS
}


def pairs_refused(rule: Rule) -> list[Pair]:
    """The pairs of values that one of `REFUSED` stands for."""
    one, ones, other, others = rule
    return [frozenset({(one, x), (other, y)}) for x in ones for y in others]


_APART = {pair for rule in REFUSED for pair in pairs_refused(rule)} | _LEFT_OUT


# A BERT is pretrained with a mask token, which bytes have not, and so there is none to start from.
_WITHOUT_BASE = {"family": "bert", "tokenizer": "bytes"}


def _fits(choice: tuple[str, str], chosen: Mapping[str, str]) -> bool:
    together = dict([*chosen.items(), choice])
    if together.get("init_from", "none") != "none" and together.items() >= _WITHOUT_BASE.items():
        return False
    return not any(frozenset({choice, other}) in _APART for other in chosen.items())


def completed(chosen: Mapping[str, str], uncovered: set[Pair] = frozenset()) -> Case | None:
    """A case with these values, whose others make it hold many of `uncovered`, or else plain ones.

    None where whatever is chosen beside them is refused.
    """
    name = next((name for name in OPTIONS if name not in chosen), None)
    if name is None:
        return {name: chosen[name] for name in OPTIONS}

    def gain(value: str) -> int:
        return sum(frozenset({(name, value), item}) in uncovered for item in chosen.items())

    for value in sorted(OPTIONS[name], key=gain, reverse=True):
        if _fits((name, value), chosen):
            case = completed({**chosen, name: value}, uncovered)
            if case is not None:
                return case
    return None


def refused_cases() -> dict[Pair, Case]:
    """A case for each pair that is refused, whose other values fit together and fit both."""
    return {
        pair: case
        for pair in sorted(_APART - _LEFT_OUT, key=sorted)
        if (case := completed(dict(sorted(pair, reverse=True)))) is not None
    }


def pairs_of(case: Mapping[str, str]) -> Iterator[Pair]:
    """Every two of its values."""
    return map(frozenset, itertools.combinations(case.items(), 2))


def all_pairs() -> list[Pair]:
    """Every pair of values of two options that some case can hold, those with pmap first."""
    pairs = []
    for (one, ones), (other, others) in itertools.combinations(OPTIONS.items(), 2):
        for choices in itertools.product(ones, others):
            chosen = dict(zip((one, other), choices, strict=True))
            pair = frozenset(chosen.items())
            if pair not in _APART and completed(chosen) is not None:
                pairs.append(pair)
    return sorted(pairs, key=lambda pair: ("mesh", "pmap") not in pair)


def covering(
    wanted: Sequence[Pair], fixed: Mapping[str, str] = types.MappingProxyType({})
) -> list[Case]:
    """Cases with what is fixed that hold each of these pairs, the first of which hold the most.

    Greedy, after Cohen et al. 1997, "The AETG system", section 3, but always the same.
    """
    uncovered, cases = set(wanted), []
    for pair in wanted:
        if pair in uncovered:
            case = completed({**dict(sorted(pair)), **fixed}, uncovered)
            uncovered -= set(pairs_of(case))
            cases.append(case)
    return cases


def few(only: Mapping[str, Sequence[str]], fixed: Mapping[str, str]) -> list[Case]:
    """Cases with what is fixed that hold each value that goes with it; of some options only these.

    What goes with least comes first, and plain values come by themselves.
    """
    items = [
        (name, value)
        for name, values in OPTIONS.items()
        for value in only.get(name, values[1:])
        if name not in fixed and completed({name: value, **fixed}) is not None
    ]
    items.sort(key=lambda item: -sum(item in pair for pair in _APART))
    some = next(iter(fixed.items()))
    return covering([frozenset({some, item}) for item in items], fixed)
