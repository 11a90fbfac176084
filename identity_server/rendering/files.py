"""Reads the operator's files of text: never more than a bounded part of whatever is there."""

from __future__ import annotations

from pathlib import Path


def read_bounded(file: Path, *, max_bytes: int) -> bytes:
    """The whole content of a file.

    Raises:
        ValueError: it can't be read or is larger; says so without the file's name.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(raw) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    return raw
