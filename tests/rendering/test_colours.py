from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.rendering.colours import BLACK, READABLE, WHITE, Colour, Palette

colours = st.builds(Colour, *[st.integers(0, 255)] * 3)


def test_contrast_as_wcag_computes_it() -> None:
    assert BLACK.contrast(WHITE) == pytest.approx(21)
    assert Colour.parse("#767676").contrast(WHITE) == pytest.approx(4.54, abs=0.01)


@given(colours)
def test_any_accent_stays_readable(colour: Colour) -> None:
    palette = Palette.of(colour)
    for background in ("#ffffff", "#f4f4f1"):
        assert palette.accent.contrast(Colour.parse(background)) >= READABLE
    for background in ("#15171a", "#1f2226"):
        assert palette.dark_accent.contrast(Colour.parse(background)) >= READABLE
    assert palette.on_accent.contrast(palette.accent) >= READABLE
    assert palette.on_accent.contrast(palette.pressed) >= READABLE
    assert palette.on_dark_accent.contrast(palette.dark_accent) >= READABLE
    assert palette.on_dark_accent.contrast(palette.dark_pressed) >= READABLE


def test_a_readable_accent_is_left_alone() -> None:
    assert str(Palette.of(Colour.parse("#0b6b6b")).accent) == "#0b6b6b"


@pytest.mark.parametrize("text", ["red", "#fff", "#12345g", "#123456;}", ""])
def test_other_notations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="#rrggbb"):
        Colour.parse(text)
