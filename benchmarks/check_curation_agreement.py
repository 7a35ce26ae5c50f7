"""Do rules of English decide as datatrove's? `python -m benchmarks.check_curation_agreement TEXTS`.

Needs a folder of texts, which are fetched if it is not there (npm, pip, a network), and
`--peer_python` of an environment with datatrove: `python3 -m venv PEER && PEER/bin/pip install
"datatrove[io,processing]==0.10.1" spacy`. Takes five minutes of a core.

A thousand documents, from addresses to Congress to spam, are judged by each rule alone, by both,
with the same bounds. Rules that are meant to be equal must decide alike wherever both are given the
same words and plain lines; else the exit code is 1. As they run, with their own words and lines,
they differ for the reasons that the table names.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.quality import texts
from lm.curation.quality import STOP_WORDS, is_hard_wrapped, judge, measure
from lm.curation.thresholds import THRESHOLDS

NUM_DOCUMENTS = 1000
_PEER = "import sys, curation_agreement_peer; curation_agreement_peer.main(sys.argv[1])"
BOUNDS = {name: THRESHOLDS["en"][name] for name in THRESHOLDS["en"]}


class Rule(NamedTuple):
    """How a rule of ours is like the peer's.

    words: which of the peer's are counted: "all", or "words", those that are not marks alone.
    lines: "one" or "two" line feeds end a line, that is, a paragraph.
    difference: that stays where both have the same words and lines; "": none.
    """

    words: str = "all"
    lines: str = "one"
    difference: str = ""


# Each holds only where its condition does; see `_is_meant`.
_ONCE = "an n-gram that stands once repeats nothing"
_JOINED = "the peer takes different words for equal ones where they are joined: a bc, ab c"
_REPETITION = {f"top_{n}_grams": Rule(difference=_ONCE) for n in (2, 3, 4)} | {
    f"duplicate_{n}_grams": Rule(difference=_JOINED) for n in range(5, 11)
}
RULES = {
    "num_units": Rule("words"),
    "mean_unit_length": Rule("words"),
    "alphabetic_units": Rule(difference="marks are no words: they do not count as not alphabetic"),
    "stop_words": Rule(),
    "hashes_per_unit": Rule(),
    "ellipses_per_unit": Rule(),
    "bullet_lines": Rule(difference="more signs than • and - are bullets"),
    "ellipsis_lines": Rule(),
    "end_mark_lines": Rule(difference="quotes and brackets may close behind an end mark"),
    "short_lines": Rule(),
    "line_ends_per_unit": Rule(),
    "duplicate_lines": Rule(),
    "duplicate_line_characters": Rule(difference="a share of all characters, line feeds too"),
    "duplicate_paragraphs": Rule(lines="two"),
    "duplicate_paragraph_characters": Rule(lines="two"),
    **_REPETITION,
    "num_sentences": Rule(
        difference="brackets and ellipses end a line, too; sentences are cut by us"
    ),
    "lorem_ipsum": Rule(),
    "curly_brackets": Rule(),
}


def main(argv: Sequence[str]) -> int:
    """Prints the tables; the exit code is 1 where rules that are meant to be equal differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="runs/texts", type=pathlib.Path)
    parser.add_argument("--peer_python", required=True, help="of an environment with datatrove")
    parser.add_argument("--list", action="store_true", help="each document that differs, by name")
    parser.add_argument(
        "--record", type=pathlib.Path, help="asks anew for those of this file alone"
    )
    args = parser.parse_args(argv[1:])
    if args.record:
        record(args.record, args.peer_python)
        return 0
    texts.fetch(args.folder)
    named = documents(args.folder)
    forms = [form for text in named.values() for form in (text, *plain(text).values())]
    version, answers = ask(args.peer_python, forms)
    print(f"{len(named):,} documents; datatrove {version}")
    same, own = ({name: collections.Counter() for name in RULES} for _ in range(2))
    for i, (name, text) in enumerate(named.items()):
        for rule, by_same, by_own in compared(text, *answers[3 * i : 3 * i + 3]):
            same[rule][by_same] += 1
            own[rule][by_own] += 1
            if args.list and by_own not in _ALIKE:
                print(f"{name}: {rule}: {by_own}")
    print("given the same words and plain lines:")
    _print(same)
    print("as they run:")
    _print(own)
    print(f"{_WORDS}: marks are none, a hyphen joins none, an apostrophe does")
    print(f"{_LINES}: wrapped ones are joined, blank ones are none")
    return int(any(found[_UNEQUAL] for found in (*same.values(), *own.values())))


_ALIKE = ("both drop", "both keep")
_DIFFERENT, _UNEQUAL, _LINES, _WORDS = "different", "not explained", "own lines", "own words"


def record(path: pathlib.Path, python: str) -> None:
    """Writes into a file of documents what the peer drops of them, and which version it is."""
    held = json.loads(path.read_bytes())
    version, answers = ask(python, [one["text"] for one in held["documents"]])
    for one, answer in zip(held["documents"], answers, strict=True):
        one["dropped"] = answer["dropped"]
    held |= {"version": version, "bounds": BOUNDS}
    path.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")


def documents(folder: pathlib.Path) -> dict[str, str]:
    """Name -> text: a third passages of addresses, the others bodies of mails; always the same."""
    addresses = {
        f"{path.stem}-{n}": text
        for path in sorted((folder / "congress").glob("*.txt"))
        for n, text in enumerate(texts.passages(path.read_text(), 12))
    }
    mails = {
        path.stem: path.read_text().partition("\n\n")[2]
        for path in sorted((folder / "mails").glob("*.txt"))
    }
    generator, found = random.Random(0), {}
    for named, most in ((addresses, NUM_DOCUMENTS // 3), (mails, NUM_DOCUMENTS)):
        for name in generator.sample(sorted(named), len(named)):
            # Lines of equal lengths ours would join again.
            if len(found) < most and not any(map(is_hard_wrapped, plain(named[name]).values())):
                found |= {name: named[name]} if named[name].strip() else {}
    return found


def plain(text: str) -> dict[str, str]:
    """Form -> the text with each paragraph in a line, ended by one line feed or two."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    parts = [part for part in parts if part]
    return {"one": "\n".join(parts), "two": "\n\n".join(parts)}


def ask(python: str, asked: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """The peer's version; and for each text the rules that drop it, and its words by line."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"bounds": BOUNDS, "texts": asked}, file)
        file.flush()
        folder = pathlib.Path(__file__).parent
        command = [python, "-c", _PEER, file.name]
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    version, *answers = map(json.loads, done.stdout.splitlines())
    return version, answers


def dropped(measures: Mapping[str, float]) -> set[str]:
    """Which rules drop a text of these measures."""
    return {name for name, bound in BOUNDS.items() if judge(measures, {name: bound}) is not None}


def _measured(text: str, tokens: Sequence[Sequence[tuple[str, bool]]]) -> dict[str, dict]:
    """By our own words, and by all of the peer's or those of them that are not marks alone."""
    found = {"own": measure(text)}
    for kind in ("all", "words"):
        words = {
            line: [word for word, is_word in of_line if is_word or kind == "all"]
            for line, of_line in zip(text.split("\n"), tokens, strict=True)
        }
        found[kind] = measure(text, STOP_WORDS, words.__getitem__)
    return found


def compared(text: str, raw: dict, one: dict, two: dict) -> Iterator[tuple[str, str, str]]:
    """Yields each rule, how both decide where they have the same words and plain lines, and how
    they decide as they run; the peer's answers are of the text and of its two plain forms."""
    ours = dropped(measure(text))
    answers = {"one": one, "two": two}
    measured = {form: _measured(of, answers[form]["tokens"]) for form, of in plain(text).items()}
    for name, rule in RULES.items():
        mine, theirs = measured[rule.lines], name in answers[rule.lines]["dropped"]
        same = _how(name in dropped(mine[rule.words]), theirs)
        if same == _DIFFERENT:
            form, tokens = plain(text)[rule.lines], answers[rule.lines]["tokens"]
            is_meant = _is_meant(name, mine[rule.words][name], theirs, len(form), tokens)
            same = rule.difference if is_meant else _UNEQUAL
        own = _how(name in ours, name in raw["dropped"])
        if own == _DIFFERENT:
            own = same
            if same in _ALIKE:
                own = _LINES if (name in dropped(mine["own"])) == theirs else _WORDS
        yield name, same, own


def _is_meant(name, ours, is_theirs, num_characters, tokens):
    """Whether the difference of a rule explains why it decides unlike the peer's."""
    difference = RULES[name].difference
    if difference == _ONCE:
        return ours == 0
    if difference == _JOINED:
        words = [word for line in tokens for word, _ in line]
        share = repeated_if_joined(words, int(name.split("_")[1])) / num_characters
        return (share > BOUNDS[name][1]) == is_theirs
    return bool(difference)


def repeated_if_joined(words: Sequence[str], n: int) -> int:
    """Characters of n-grams that stood before, where nothing parts the words of one."""
    seen, place, found = set(), 0, 0
    while place + n <= len(words):
        joined = "".join(words[place : place + n])
        is_new = joined not in seen
        seen.add(joined)
        place += 1 if is_new else n
        found += 0 if is_new else len(joined)
    return found


def _how(is_ours: bool, is_theirs: bool) -> str:
    return _ALIKE[not is_ours] if is_ours == is_theirs else _DIFFERENT


def _print(counts: Mapping[str, collections.Counter]) -> None:
    print(f"{'rule':32}{'both drop':>10}{'both keep':>10}{'alike':>8}  not alike, and why")
    for name, found in counts.items():
        drop, keep = (found[how] for how in _ALIKE)
        others = [f"{n}: {why}" for why, n in found.most_common() if why not in _ALIKE]
        share = f"{(drop + keep) / found.total():.1%}"
        print(f"{name:32}{drop:10,}{keep:10,}{share:>8}  {'; '.join(others)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
