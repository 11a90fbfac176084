"""Gives memory that is free back to the system.

A burst of large requests leaves megabytes behind that the allocator would keep for the next one.
"""

from __future__ import annotations

import ctypes

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""The GNU C library has it; others needn't be told."""


def give_back() -> None:
    """Let the system have what is free; microseconds if there is nothing."""
    if _TRIM is not None:
        _TRIM(0)
