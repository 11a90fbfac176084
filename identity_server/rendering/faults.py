"""What can be wrong with brands and templates, for the modules that find and render them."""

from __future__ import annotations


class BrandingProblems(Exception):
    """What is wrong with the brands and their templates; the text lists every problem.

    Attributes:
        problems: one line each, with the file it is about.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class TemplateFault(Exception):
    """A template could not be rendered. The text names the template and the kind of fault, never a value."""
