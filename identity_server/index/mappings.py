"""What a lookup is answered with: from hashes to Matrix IDs, written as JSON in the moment in which they are found.

The rule: each hash stands in it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from identity_server.domain.identifiers import UserId


@dataclass(frozen=True, slots=True)
class Mappings:
    """A JSON object.

    Attributes:
        members: without the braces around it.
    """

    count: int = 0
    members: bytes = b""

    @classmethod
    def of(cls, found: Mapping[str, UserId]) -> Mappings:
        """These."""
        return cls(len(found), orjson.dumps(found)[1:-1]) if found else cls()

    @classmethod
    def together(cls, some: Iterable[Mappings]) -> Mappings:
        """All of several, which have no hash in common."""
        parts = [each for each in some if each.count]
        return cls(sum(each.count for each in parts), b",".join([each.members for each in parts]))

    def __len__(self) -> int:
        return self.count

    def to_json(self) -> bytes:
        """The whole object."""
        return b"{%b}" % self.members
