"""Tells the processes of one node that another of them has committed, at the cost of comparing a few bytes.

The rule: a stamp changes after the commit that it stands for and before whoever committed goes on. So whoever
reads a stamp that they have seen before has seen every commit that anybody on the node was told of.
"""

from __future__ import annotations

import mmap
import os
import time
from enum import IntEnum
from pathlib import Path

from identity_server.storage.file_place import FilePlace

_SIZE = 1024
_PROCESS_BITS = 22
_NUMBERS = 2**64


class Subject(IntEnum):
    """What others have to hear of: on this node by a stamp, on others by a signal (notifications.py)."""

    LOOKUPS = 0
    """Associations and peppers: whatever lookups are answered from."""
    ACCOUNTS = 1
    """Access tokens and consent that no longer hold."""


class Stamps:
    """One stamp per subject, in memory that all processes of a node share.

    Args:
        file: where the memory is; None where nobody else is to know.

    Raises:
        OSError: the file can't be made or written.
    """

    def __init__(self, file: Path | None = None) -> None:
        memory = mmap.mmap(-1, _SIZE) if file is None else self._shared(file)
        self._stamps = memoryview(memory).cast("Q")
        self._place = None if file is None else FilePlace(file)

    @staticmethod
    def _shared(file: Path) -> mmap.mmap:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Never shrunk: a process that has mapped more of it would be killed when it looks there.
            if os.fstat(descriptor).st_size < _SIZE:
                os.ftruncate(descriptor, _SIZE)
            return mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    @property
    def were_replaced(self) -> bool:
        """Whether whoever begins now would share another file: then these hear nothing of them, nor they of these."""
        return self._place is not None and self._place.is_anothers

    def read(self, subject: Subject) -> int:
        """The stamp as it is now; only good for comparing."""
        return self._stamps[subject]

    def renew(self, subject: Subject) -> None:
        """Change the stamp to one that it never was before.

        No counter: of two processes that count up at once, one would undo what the other has said.
        """
        # Time and process: nobody else's, for as long as the machine runs and anybody may have seen it.
        self._stamps[subject] = ((time.monotonic_ns() << _PROCESS_BITS) + os.getpid()) % _NUMBERS
