"""Says in how many pieces tokenizers spell languages: a table, a file of JSON and a picture."""

import itertools
import json
import pathlib

import ml_collections

from lm.corpus import named_texts, sources
from lm.errors import UserError
from lm.loading.run_folder import has_tokenizer
from lm.results import fertility_plot, plots
from lm.system import atomic_files, safe_text
from lm.tokenizers import fertility, tokenizers
from lm.tokenizers.tokenizers import Tokenizer


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Prints the table, and writes fertility.json and fertility.png into `workdir`."""
    names = [name.strip() for name in config.tokenizers.split(",") if name.strip()]
    if not names:
        raise UserError("tokenizers is not set; name folders or files: --config.tokenizers=A,B")
    if not config.texts:
        raise UserError(
            "there are no texts; name each language, and its files: "
            "--config='configs/fertility.py:en=en/*.txt,zh=zh/*.txt'"
        )
    opened = {name: _open(name) for name in names}
    texts: dict[str, sources.Source] = {}
    for language, source in map(_source, config.texts):
        if language in texts:
            raise UserError(
                f"texts: {language} is named twice; give all of its files by one glob, or another "
                "name to these"
            )
        texts[language] = source
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in opened}
    for language, source in texts.items():
        for name, tokenizer in opened.items():
            chosen = itertools.islice(named_texts.all_texts(source), config.limit or None)
            counts = fertility.count(tokenizer, chosen)
            if not counts.num_characters:
                raise UserError(f"texts: {language} has no text; give it other files")
            found[name][language] = counts.measures()
    _print(found)
    workdir.mkdir(parents=True, exist_ok=True)
    contents = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    atomic_files.write(workdir / "fertility.json", contents)
    if missing := fertility_plot.save(found, workdir / "fertility.png"):
        print(plots.font_hint(missing))
    print(f"written to {workdir}: fertility.json, fertility.png")
    return 0


def _open(name: str) -> Tokenizer:
    """Opens the tokenizer of a run or of a folder of `transformers`, or in a file."""
    folder = pathlib.Path(name)
    return (
        tokenizers.load(folder / "tokenizer")
        if has_tokenizer(folder)
        else (tokenizers.load_file(folder))
    )


def _source(named: str) -> tuple[str, sources.Source]:
    """Opens what LANGUAGE=GLOBS names, and returns it behind the language."""
    language, _, globs = named.partition("=")
    if not language or not globs:
        raise UserError(f"texts: {named!r} is not LANGUAGE=GLOBS, such as zh=zh/*.txt")
    return language, named_texts.training_texts(globs, f"texts: {language}")


def _print(found: fertility_plot.Measures) -> None:
    rows = [
        (safe_text.escaped(language), safe_text.escaped(name), measures)
        for name, by_language in found.items()
        for language, measures in by_language.items()
    ]
    rows.sort(key=lambda row: list(next(iter(found.values()))).index(row[0]))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    names = list(rows[0][2])
    print(" " * (sum(widths) + 2) + "".join(f"{name:>22}" for name in names))
    for language, name, measures in rows:
        cells = "".join(f"{measures[key]:>22.3f}" for key in names)
        print(f"{language:<{widths[0]}}  {name:<{widths[1]}}{cells}")
