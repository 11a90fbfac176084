"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How bad it is."""

    FINE = "fine"
    NOTE = "note"
    """Nothing wrong, but worth knowing."""
    WARNING = "warning"
    """It works, and will hurt somebody some day."""
    FAULT = "fault"
    """Something doesn't work."""
    SKIPPED = "skipped"
    """Not looked at; the text says what to give for it to be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what was looked at, in a word or two.
        cause: why it is so, as far as can be seen from here.
        fix: what to do.
        steps: how it was found out, where that takes more than one step.
    """

    about: str
    verdict: Verdict
    what: str
    cause: str = ""
    fix: str = ""
    steps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "verdict": self.verdict.value}

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.verdict.value:<8} {self.about}: {self.what}"]
        lines += [f"           - {step}" for step in self.steps]
        lines += [f"           {name}: {text}" for name, text in (("why", self.cause), ("do", self.fix)) if text]
        return "\n".join(lines)


def fine(about: str, what: str, **more: Any) -> Finding:
    return Finding(about, Verdict.FINE, what, **more)


def note(about: str, what: str, **more: Any) -> Finding:
    return Finding(about, Verdict.NOTE, what, **more)


def warning(about: str, what: str, **more: Any) -> Finding:
    return Finding(about, Verdict.WARNING, what, **more)


def fault(about: str, what: str, **more: Any) -> Finding:
    return Finding(about, Verdict.FAULT, what, **more)


def skipped(about: str, what: str) -> Finding:
    return Finding(about, Verdict.SKIPPED, what)
