"""Whether this process can serve."""

from __future__ import annotations

from identity_server.domain.errors import Unavailable
from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database


class Health:
    """Readiness: the database answers and the index stands."""

    def __init__(self, *, database: Database, index: ReadIndex) -> None:
        self._database = database
        self._index = index

    async def require_ready(self) -> None:
        """Prove that requests can be served.

        Raises:
            Unavailable: they can't.
        """
        if not self._index.ready:
            raise Unavailable("The lookup index is still being built.")
        await self._database.ping()
