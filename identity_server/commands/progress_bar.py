"""A progress bar in the terminal; loaded only where rich is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID


class _ProgressBar:
    """One bar for each part of the work, on stderr."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._current: TaskID | None = None

    def begin(self, what: str, total: int) -> None:
        self._current = self._bars.add_task(what, total=total)

    def advance(self, count: int) -> None:
        if self._current is not None:
            self._bars.advance(self._current, count)


@contextmanager
def progress_bar() -> Iterator[_ProgressBar]:
    """Bars for as long as the block runs."""
    with Bars(console=Console(stderr=True)) as bars:
        yield _ProgressBar(bars)
