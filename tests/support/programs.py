"""Python programs of a few lines, each run in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def outcome(program: str) -> str:
    """What it prints; a warning, or any other failure, fails the test."""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
