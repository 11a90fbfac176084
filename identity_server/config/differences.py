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
        applies: whether this configuration is concerned: for a default, the key isn't given; for a meaning, it is, and is
            neither empty nor off, as most are that Sydent has written into the file by itself.
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
        for attribute, key in section.keys.items()
        for row in _rows(section.name, attribute, key, config)
    )


def _rows(section: str, attribute: str, key: Key, config: Config | None) -> list[Difference]:
    rows = []
    given = config is not None and (section, key.name) in config.given
    if key.sydent_default is not None:
        rows.append(
            Difference(
                "default",
                section,
                key.name,
                key.default,
                key.sydent_default,
                " ".join(key.breaks.split()),
                not given,
            )
        )
    if key.reads_differently:
        meaning = " ".join(key.reads_differently.split())
        says_something = given and bool(getattr(getattr(config, section), attribute))
        rows.append(Difference("meaning", section, key.name, "", "", meaning, config is None or says_something))
    return rows
