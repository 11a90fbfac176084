"""The file that tells others whom to send signals to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keep this process's id in a file while the block runs; None for nowhere."""
    if path is None:
        yield
        return
    # A new file in place of whatever is there: a link that someone left in /run or /tmp is not written through.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
        file.write(f"{os.getpid()}\n")
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
