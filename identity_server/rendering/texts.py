"""The words of text messages, in the languages of mails and pages.

Rule: a text is short, because what doesn't fit into one SMS is paid for twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from identity_server.rendering.templates import Templates


class Texts:
    """What text messages say.

    Args:
        templates: knows the languages, and which one a brand speaks.
        validation: the operator's own words for a code that proves a number, with `{token}` in them; they stand for
            every language. None for ours.
    """

    def __init__(self, templates: Templates, *, validation: str | None) -> None:
        self._templates = templates
        self._validation = validation

    def validation(self, wanted: Iterable[str], brand: str | None) -> str:
        """The text that brings the code of a validation session; `{token}` stands for it.

        Args:
            wanted: language tags, best first.
            brand: the brand asked for, or None for the default.
        """
        if self._validation is not None:
            return self._validation
        return self._templates.language_for(wanted, brand).translations.gettext("Your code is {token}")

    def visit(self, wanted: Iterable[str], brand: str | None) -> str:
        """The text that brings the code of a visit to the privacy page; `{token}` stands for it.

        The operator's own words are for another purpose, so ours are sent.
        """
        translations = self._templates.language_for(wanted, brand).translations
        text = translations.gettext("{token} is the code to see what {server} holds about this number.")
        return text.replace("{server}", self._templates.server_name)
