"""Where Sydent does otherwise with the same file, and who notices.

`check-config` and `import-sydent` show this. The one rule: it says what the declarations of the keys say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from identity_server.config.keys import Key
from identity_server.config.sections import Config, all_sections


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from Sydent.

    Attributes:
        kind: `default`, where leaving the key out means something else; `meaning`, where giving it does.
        section: the section of the key.
        key: the key.
        ours: the default here, as written in the file (empty for differences of meaning).
        sydent: what Sydent does without the key (empty for differences of meaning).
        breaks: who notices, and what to do about it.
        applies: whether this configuration is concerned: for a default, the key isn't given; for a meaning, it is.
    """

    kind: Literal["default", "meaning"]
    section: str
    key: str
    ours: str
    sydent: str
    breaks: str
    applies: bool


def differences(config: Config | None = None) -> tuple[Difference, ...]:
    """Every default and every meaning that differs from Sydent's.

    Args:
        config: says which rows apply; without one all do.
    """
    return tuple(
        row
        for section in all_sections()
        for key in section.keys.values()
        for row in _rows(section.name, key, None if config is None else (section.name, key.name) in config.given)
    )


def _rows(section: str, key: Key, given: bool | None) -> list[Difference]:  # noqa: FBT001 - one private caller
    rows = []
    if key.sydent_default is not None:
        rows.append(
            Difference(
                "default",
                section,
                key.name,
                key.default,
                key.sydent_default,
                " ".join(key.breaks.split()),
                given is not True,
            )
        )
    if key.reads_differently:
        meaning = " ".join(key.reads_differently.split())
        rows.append(Difference("meaning", section, key.name, "", "", meaning, given is not False))
    return rows
