"""What docs/results/two_languages.md and its picture say of two_languages.json."""

import hashlib
import json
import pathlib
import statistics
from collections import defaultdict
from typing import Any

from lm.system import atomic_files

LANGUAGES = ("en", "zh")
INITS = ("mean_of_pieces", "focus", "mean", "random")
WEIGHTS = ((9, 1), (1, 1))  # Of English and Chinese.
ENGLISH, REPLAY, SCRATCH = "English alone", "mean_of_pieces, half English", "from scratch"
_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
PAGE, DATA, PICTURE = (_RESULTS / f"two_languages.{suffix}" for suffix in ("md", "json", "png"))

_MIXTURE_COLUMNS = ((0, 100), (0, 200), (0, 300), (1, 100), (1, 200), (1, 300))
_EXTENSION_COLUMNS = ((0, 0), (0, 100), (1, 100))  # The index of a language, and a step.
_CORPUS_HEAD = (
    "language",
    "documents read",
    "dropped: another language",
    "dropped: else",
    "kept",
    "bytes",
    "masked",
)
_PAGE = """# Two languages, from files to models

Written by `python -m benchmarks.quality.two_languages runs/two_languages` from
[two_languages.json](two_languages.json), never by hand. A GPT-2 of four layers, 128 wide, and
2,048 tokens a step: so small a model, with {num_seeds} {seeds}, shows how the parts go together,
and little about languages.

![Bits per byte of held-out text by step](two_languages.png)

Bits per byte of held-out text, of which less is better; losses would not do, for the runs have
three tokenizers. Each number is that of a seed.

On {hardware}, shared with other work; {hours} processor hours in all, commit
{commit}.

## The corpora

The same files are curated twice, and one language is kept each time.

{corpora}

English is presidents' addresses to Congress since 1790, a document each. Chinese is January
1998 of a newspaper, cut behind a paragraph since nothing parts its articles: parts of an
article may stand on both sides of what is held out. What is masked in it as addresses (ip) is none:
these are numbers of tables, whose spaces went with the tags.

## Mixtures

300 steps on both languages, by weights of 9 to 1 and of 1 to 1, with one tokenizer of 4,096
pieces.

{mixtures}

{of_mixtures}

## An English model learns Chinese

400 steps of English alone leave it at {english}. Then up to 3,000 pieces are added, which spell
the Chinese training text in {after} tokens a character in place of {before}, and 100 steps are
Chinese, at the rate of a first training; where half of the rows are English, it sees half as much
Chinese. Step 0 is before any of them.

{extended}

{of_extensions}

## Commands

Of the first seed; the others have a `config.seed` and folders of their own.

```bash
{commands}
```
"""

Results = dict[str, Any]  # What `two_languages.read` gives.
Curves = dict[str, dict[int, dict[int, tuple[float, ...]]]]  # Run, step, language -> by seed.


def mixture(en: int, zh: int) -> str:
    """The name of a run on a mixture."""
    return f"{en} English : {zh} Chinese"


MIXTURES = tuple(mixture(*weights) for weights in WEIGHTS)
RUNS = (*MIXTURES, ENGLISH, *INITS, REPLAY, SCRATCH)


def curves_of(results: Results) -> Curves:
    """Rows -> bits per byte by run, step and index of the language, of all seeds in their order."""
    found: Curves = defaultdict(lambda: defaultdict(lambda: defaultdict(tuple)))
    for name, _, step, *bits in results["rows"]:
        for language, value in enumerate(bits):
            if value is not None:
                found[name][step][language] += (value,)
    return found


def text_of(results: Results) -> str:
    """The page."""
    curves = curves_of(results)
    before, after = results["tokens_a_character"]
    corpora = [_corpus_line(x, results["corpora"][x]) for x in LANGUAGES]
    extended = (*INITS, REPLAY, SCRATCH)
    num_seeds = len({row[1] for row in results["rows"]})
    return _PAGE.format(
        num_seeds=num_seeds,
        seeds="seed" if num_seeds == 1 else "seeds",
        hardware=results["hardware"],
        hours=results["hours"],
        commit=", ".join(results["commit"]),
        corpora=_table(_CORPUS_HEAD, corpora),
        mixtures=_bits_table("rows", curves, MIXTURES, _MIXTURE_COLUMNS),
        of_mixtures=_list(_of_mixtures(curves)),
        english=_seeds(_last(curves, ENGLISH, 0)),
        before=before,
        after=after,
        extended=_bits_table("new rows begin as", curves, extended, _EXTENSION_COLUMNS),
        of_extensions=_list(_of_extensions(curves)),
        commands="\n".join(results["commands"]),
    )


def _of_mixtures(curves: Curves) -> list[str]:
    found = []
    for language, name in enumerate(("English", "Chinese")):
        few, many = (_last(curves, run, language) for run in MIXTURES)
        found.append(
            f"With half of the rows Chinese in place of a tenth, {name} takes "
            f"{_difference(few, many)} bits per byte: {_against_noise(few, many)}."
        )
    return found


def _of_extensions(curves: Curves) -> list[str]:
    english = _last(curves, ENGLISH, 0)
    costs = [f"{_difference(english, curves[name][0][0], 3)} ({name})" for name in INITS]
    chinese = {name: _last(curves, name, 1) for name in (*INITS, REPLAY, SCRATCH)}
    best, *_, worst = sorted(INITS, key=lambda name: statistics.mean(chinese[name]))
    best_of, worst_of, scratch = (chinese[name] for name in (best, worst, SCRATCH))
    return [
        f"At once, before any Chinese, English takes {', '.join(costs)} bits per byte.",
        f"After the last step, Chinese takes {_difference(best_of, worst_of, 3)} from the worst "
        f"start ({worst}) than from the best ({best}): {_against_noise(best_of, worst_of)}.",
        f"From the best of them it takes {_difference(scratch, best_of, 3)} than from scratch, "
        f"after as many steps: {_against_noise(scratch, best_of)}.",
        f"Chinese alone takes English to {_seeds(_last(curves, INITS[0], 0))} from {INITS[0]}; "
        f"with half of the rows English it is at {_seeds(_last(curves, REPLAY, 0))}, and Chinese "
        f"takes {_difference(chinese[INITS[0]], chinese[REPLAY], 3)}.",
    ]


def _difference(some: tuple[float, ...], others: tuple[float, ...], digits: int = 2) -> str:
    """How much more, or less, the others have on average."""
    change = statistics.mean(others) - statistics.mean(some)
    return f"{abs(change):.{digits}f} {'more' if change > 0 else 'less'}"


def _against_noise(some: tuple[float, ...], others: tuple[float, ...]) -> str:
    """Says whether the seeds of two runs overlap."""
    if len(some) == len(others) == 1:
        return "one seed each, so that nothing says how much of it is chance"
    spread = max(max(x) - min(x) for x in (some, others))
    apart = max(some) < min(others) or max(others) < min(some)
    seen = (
        "all seeds of the two agree" if apart else "seeds of the two overlap, so this says nothing"
    )
    return f"{seen} (seeds of one differ by up to {spread:.3f})"


def _corpus_line(language: str, account: dict[str, Any]) -> list[str]:
    counts = (account[key] for key in ("read", "other_language", "dropped", "kept", "bytes"))
    masked = ", ".join(f"{count} {kind}" for kind, count in sorted(account["masked"].items()))
    return [language, *(f"{count:,}" for count in counts), masked]


def _bits_table(
    what: str, curves: Curves, names: tuple[str, ...], columns: tuple[tuple[int, int], ...]
) -> str:
    heads = [f"{LANGUAGES[language]}, step {step}" for language, step in columns]
    lines = [
        [name, *(_seeds(curves[name][step][language]) for language, step in columns)]
        for name in names
    ]
    return _table((what, *heads), lines)


def _last(curves: Curves, name: str, language: int) -> tuple[float, ...]:
    return curves[name][max(curves[name])][language]


def _seeds(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _list(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def digest(results: Results) -> str:
    """What the picture says that it was drawn from."""
    return hashlib.sha256(json.dumps(results["rows"]).encode()).hexdigest()


def draw(results: Results, path: pathlib.Path) -> None:
    """Draws both panels: mean over seeds, with a band from the least to the most."""
    import matplotlib.pyplot as plt

    curves = curves_of(results)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, line in zip(MIXTURES, ("-", "--"), strict=True):
        for language, color in ((0, "#1f5f99"), (1, "#b5512e")):
            label = f"{('English', 'Chinese')[language]}, {name}"
            _line(left, curves[name], language, label, color=color, linestyle=line)
    colors = ("#1f5f99", "#4a9c6d", "#8a5fb0", "#d9a03f", "#5fb3c4", "#444444")
    for name, color in zip((*INITS, REPLAY, SCRATCH), colors, strict=True):
        english, chinese = (_last(curves, name, language) for language in (0, 1))
        marker = {SCRATCH: "s", REPLAY: "^"}.get(name, "o")
        right.plot(english, chinese, marker, color=color, label=name)
    before = statistics.mean(_last(curves, ENGLISH, 0))
    right.axvline(before, color="#444444", linestyle=":", label="English of the English model")
    left.margins(y=0.3)  # Room for the legend.
    left.set(title="Mixtures", xlabel="step", ylabel="bits per byte of held-out text")
    right.set(
        title="An English model after 100 steps of Chinese",
        xlabel="bits per byte of English",
        ylabel="bits per byte of Chinese",
    )
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Description": digest(results)})


def _line(axis, by_step: dict[int, Any], language: int, label: str, **style: Any) -> None:
    points = [
        (step, by_step[step][language]) for step in sorted(by_step) if by_step[step][language]
    ]
    steps, seeds = zip(*points, strict=True)
    axis.plot(
        steps, list(map(statistics.mean, seeds)), marker="o", markersize=3, label=label, **style
    )
    axis.fill_between(
        steps, list(map(min, seeds)), list(map(max, seeds)), alpha=0.2, color=style["color"]
    )


def write(results: Results) -> None:
    """Writes the data, the picture and the page."""
    atomic_files.write(DATA, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    draw(results, PICTURE)
    atomic_files.write(PAGE, text_of(results))
