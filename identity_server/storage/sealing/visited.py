"""What stands for an address in its visits: for who looks for them, erases them or seals them anew."""

from __future__ import annotations

from identity_server.domain.identifiers import Threepid
from identity_server.storage.sealing.sealer import Sealer

_PURPOSE = "visited address"
"""What the digests of addresses here are for, and no other."""


def visited_digest(sealer: Sealer, threepid: Threepid) -> bytes:
    """What stands for an address in its visits."""
    return sealer.digest(_PURPOSE, *threepid.parts)


def visited_digests(sealer: Sealer, threepid: Threepid) -> list[bytes]:
    """What may stand for it in visits that are there."""
    return sealer.digests(_PURPOSE, *threepid.parts)
