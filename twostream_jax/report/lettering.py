"""Names in pictures: other people's class names may hold any character, and matplotlib's own font has no Chinese."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from matplotlib import font_manager

# Comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and most signs.
PLAIN = "DejaVu Sans"
# This font, which comes with matplotlib too, has a box for every character there is.
_BOXES = "Last Resort"
LONGEST = 40  # letters of a name in a picture


def readable(name: str) -> str:
    """Return a class name as it stands in a picture: `drawable`, with blanks for underscores, at most 40 letters."""
    short = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return drawable(short.replace("_", " "))


def drawable(text: str) -> str:
    """Return a text that matplotlib draws as it is: no formulas, one line, and what no installed font has as `[6F22]`."""
    letters = (letter if letter.isprintable() else " " for letter in text)
    return "".join(letter if font_of(letter) else f"[{ord(letter):04X}]" for letter in letters).replace("$", r"\$")


def families(texts: Iterable[str]) -> list[str]:
    """Return the fonts that these texts need, matplotlib's own first."""
    needed = {font_of(letter) for text in texts for letter in set(text)}
    return [PLAIN, *sorted(needed - {PLAIN, None})]


@functools.cache
def font_of(letter: str) -> str | None:
    """Return the name of an installed font that has the character; None where none has."""
    fonts = {font.name: font.fname for font in font_manager.fontManager.ttflist if not font.name.startswith(_BOXES)}
    for name in sorted(fonts, key=lambda name: (name != PLAIN, name)):
        if ord(letter) in _characters(fonts[name]):
            return name
    return None


@functools.cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (RuntimeError, OSError):  # a damaged font, or one uninstalled since matplotlib looked
        return frozenset()
