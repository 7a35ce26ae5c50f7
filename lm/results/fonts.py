"""Fonts for pictures whose text may be in any language."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib import font_manager


@contextlib.contextmanager
def covering(texts: Sequence[str]) -> Iterator[str]:
    """Has Matplotlib draw with installed fonts that together have all characters of some texts.

    Yields the characters that none of them has; boxes are drawn in their place.
    """
    wanted = {character for text in texts for character in text if character.isprintable()}
    families = list(matplotlib.rcParams["font.family"])
    usual = font_manager.findfont(font_manager.FontProperties(family=families))
    missing = wanted - _characters(usual)
    for font in _installed() if missing else ():
        if found := missing & _characters(font.fname):
            families.append(font.name)
            missing -= found
    with matplotlib.rc_context({"font.family": families}):
        yield "".join(sorted(missing))


def hint(missing: str) -> str:
    """Says what `covering` could not have drawn, and how to mend it."""
    return (
        f"no installed font has {' '.join(missing)}, for which boxes are drawn; install one that "
        "has, such as Noto Sans CJK for Chinese, Japanese and Korean (Debian: fonts-noto-cjk)"
    )


def _installed() -> list[font_manager.FontEntry]:
    """The upright fonts of a usual weight, those without serifs first."""
    # Matplotlib keeps the list of an earlier day, and does not look whether fonts have come since.
    known = {pathlib.Path(font.fname) for font in font_manager.fontManager.ttflist}
    for path in map(pathlib.Path, font_manager.findSystemFonts()):
        if path not in known:
            with contextlib.suppress(RuntimeError):  # Of a kind that FreeType does not draw.
                font_manager.fontManager.addfont(path)
    upright = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular", "book")
    ]
    return sorted(upright, key=lambda font: ("Sans" not in font.name, "Mono" in font.name))


def _characters(path: str) -> set[str]:
    try:
        return set(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # Gone since the list was made, or damaged.
        return set()
