"""Where a file was when it was opened, and whether it still is there.

The rule: a file that is removed stays open for whoever has it open, and for nobody else. So whoever shares a file with other
processes asks now and then whether they still would open the same one.
"""

from __future__ import annotations

from pathlib import Path


class NotInPlace(OSError):
    """The file that is open isn't the one under its name any more."""


class FilePlace:
    """The place of one file; a few millionths of a second tell whether it still is there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity = self._look()

    def require(self) -> None:
        """Make sure that the file is still there, and no other one under its name.

        Raises:
            NotInPlace: it isn't.
        """
        if self._identity is None or self._look() != self._identity:
            raise NotInPlace

    @property
    def is_anothers(self) -> bool:
        """Whether there is another file under the name now: then this one doesn't come back."""
        return self._look() not in {None, self._identity}

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
