"""How far a long piece of work has come, for whoever watches."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows how far it is."""

    def begin(self, what: str, total: int) -> None:
        """A new part of the work begins."""

    def advance(self, count: int) -> None:
        """This much more of it is done."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int) -> None:
        """Nothing to show."""

    def advance(self, count: int) -> None:
        """Nothing to show."""
