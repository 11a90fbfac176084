"""What has been written to a SQLite database since it was made, versions that were overwritten since included.

The rule: whatever was written at once stands in one piece. Blocks are left out that are as they were before, and
something written changes every block that it touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PAGE = 4096
_BLOCK = 256
_LOG_HEADER, _FRAME_HEADER = 32, 24


def written_since(file: Path, made: bytes) -> bytes:
    """The blocks of a database file and its write-ahead log that aren't as they were in `made`."""
    versions = dict(_pages(made))
    parts: list[bytes] = []
    for number, page in [*_pages(file.read_bytes()), *_frames(file.with_name(f"{file.name}-wal"))]:
        before = versions.get(number, b"").ljust(_PAGE, b"\0")
        if page != before:
            parts += _changed(page, before)
            versions[number] = page
    return b"\n".join(parts)


def _pages(content: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(content), _PAGE):
        yield start // _PAGE + 1, content[start : start + _PAGE]


def _frames(log: Path) -> Iterator[tuple[int, bytes]]:
    """The pages in a write-ahead log, in the order in which they were written."""
    content = log.read_bytes() if log.exists() else b""
    for start in range(_LOG_HEADER, len(content), _FRAME_HEADER + _PAGE):
        page = start + _FRAME_HEADER
        yield int.from_bytes(content[start : start + 4], "big"), content[page : page + _PAGE]


def _changed(page: bytes, before: bytes) -> Iterator[bytes]:
    """The runs of blocks that have changed."""
    begun = None
    for start in range(0, len(page), _BLOCK):
        block = slice(start, start + _BLOCK)
        if page[block] != before[block]:
            begun = start if begun is None else begun
        elif begun is not None:
            yield page[begun:start]
            begun = None
    if begun is not None:
        yield page[begun:]
