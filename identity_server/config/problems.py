"""What is wrong with a configuration, and where; gathered, so that everything is reported at once.

The one rule: no value of a secret, and no line of the file, is ever repeated in a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: a line of the file, an environment variable, or neither (a default)."""

    file: Path | None = None
    line: int | None = None
    variable: str | None = None

    def __str__(self) -> str:
        if self.variable is not None:
            return f"${self.variable}"
        if self.file is None:
            return ""
        return str(self.file) if self.line is None else f"{self.file}, line {self.line}"


NOWHERE = Origin()
"""The origin of defaults, and of problems that concern no single line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth a warning.

    Attributes:
        message: what is wrong and how to put it right; safe to show and to log.
        section: the INI section concerned, if one is.
        key: the key as documented, if one is concerned.
        origin: where the value stands.
        suggestion: the nearest known name, where a name is unknown.
    """

    message: str
    section: str | None = None
    key: str | None = None
    origin: Origin = NOWHERE
    suggestion: str | None = None

    def __str__(self) -> str:
        name = " ".join(part for part in (self.section and f"[{self.section}]", self.key) if part)
        where = ", ".join(part for part in (str(self.origin), name) if part)
        hint = f" Did you mean `{self.suggestion}`?" if self.suggestion else ""
        return f"{where}: {self.message}{hint}" if where else f"{self.message}{hint}"


class ConfigError(Exception):
    """The configuration can't be used.

    Attributes:
        problems: everything that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Report:
    """Gathers errors and warnings while a configuration is read.

    Args:
        strict: whether names that nobody knows are errors instead of warnings.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._errors: list[Problem] = []
        self._warnings: list[Problem] = []

    def error(self, problem: Problem) -> None:
        """Note something that the server must not start with."""
        self._errors.append(problem)

    def warn(self, problem: Problem) -> None:
        """Note something that the operator should know."""
        self._warnings.append(problem)

    def unknown(self, problem: Problem) -> None:
        """Note something without effect that is probably a slip: a warning, or an error when strict."""
        (self._errors if self._strict else self._warnings).append(problem)

    def raise_errors(self) -> None:
        """Stop here if anything is wrong.

        Raises:
            ConfigError: with every error noted so far.
        """
        if self._errors:
            raise ConfigError(_in_order(self._errors))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Every warning, in the order of the file."""
        return _in_order(self._warnings)


def _in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    """By line; what concerns no line comes last, in the order of its finding. Repeats are dropped."""
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda problem: (problem.origin.line is None, problem.origin.line or 0)))
