"""Colours that stay readable whatever accent a brand chooses.

Rule: an accent is only used in a form that keeps WCAG's contrast against what it stands on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

READABLE = 4.5
"""The contrast that WCAG 2.2 asks of text (criterion 1.4.3, level AA)."""

_HEX = re.compile(r"#([0-9a-fA-F]{6})")
_STEPS = 50
_LINEAR_BELOW = 0.04045


@dataclass(frozen=True, slots=True)
class Colour:
    """An sRGB colour, each part 0 to 255."""

    red: int
    green: int
    blue: int

    @classmethod
    def parse(cls, text: str) -> Colour:
        """Read `#rrggbb`.

        Raises:
            ValueError: it isn't that.
        """
        match = _HEX.fullmatch(text)
        if match is None:
            raise ValueError("a colour is written #rrggbb")
        return cls(*bytes.fromhex(match[1]))

    def __str__(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"

    @property
    def luminance(self) -> float:
        """Relative luminance, 0 (black) to 1 (white), as WCAG defines it."""
        red, green, blue = (_linear(part / 255) for part in (self.red, self.green, self.blue))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(self, other: Colour) -> float:
        """The contrast ratio of two colours, 1 to 21."""
        low, high = sorted((self.luminance, other.luminance))
        return (high + 0.05) / (low + 0.05)

    def towards(self, other: Colour, share: float) -> Colour:
        """This colour mixed with a share (0 to 1) of another."""
        mine = (self.red, self.green, self.blue)
        theirs = (other.red, other.green, other.blue)
        return Colour(*(round(a + (b - a) * share) for a, b in zip(mine, theirs, strict=True)))

    def readable_on(self, background: Colour) -> Colour:
        """This colour, or the nearest darker or lighter one that can be read on the background."""
        end = background.opposite
        for step in range(_STEPS + 1):
            candidate = self.towards(end, step / _STEPS)
            if candidate.contrast(background) >= READABLE:
                return candidate
        return end

    @property
    def opposite(self) -> Colour:
        """Black or white, whichever stands out more; its contrast is never below 4.58."""
        return max(BLACK, WHITE, key=self.contrast)


BLACK = Colour(0, 0, 0)
WHITE = Colour(255, 255, 255)


# The grounds that text stands on, light and dark; the stylesheets have the same values.
_GROUNDS = (Colour.parse("#f4f4f1"), Colour.parse("#1f2226"))
_PRESSED_SHARE = 0.18


@dataclass(frozen=True, slots=True)
class Palette:
    """An accent in the forms that can be read, for the light and the dark scheme.

    Attributes:
        accent: as text on a page, and under a button's label.
        on_accent: the label.
        pressed: under the label while the pointer is on it.
        dark_accent: as `accent`, in the dark scheme.
        on_dark_accent: as `on_accent`, in the dark scheme.
        dark_pressed: as `pressed`, in the dark scheme.
    """

    accent: Colour
    on_accent: Colour
    pressed: Colour
    dark_accent: Colour
    on_dark_accent: Colour
    dark_pressed: Colour

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, colour: Colour) -> Palette:
        """The palette for an accent. It is remembered: every mail and page asks for that of its brand."""
        light, dark = (colour.readable_on(ground) for ground in _GROUNDS)
        return cls(
            accent=light,
            on_accent=light.opposite,
            pressed=light.towards(light.opposite.opposite, _PRESSED_SHARE),
            dark_accent=dark,
            on_dark_accent=dark.opposite,
            dark_pressed=dark.towards(dark.opposite.opposite, _PRESSED_SHARE),
        )


def _linear(part: float) -> float:
    return part / 12.92 if part <= _LINEAR_BELOW else ((part + 0.055) / 1.055) ** 2.4
