"""Which of the jobs that wait are about somebody, although what they say is sealed.

They are opened one after the other, before the transaction that removes anything, and in it only those that came since:
there may be many after an outage, and nobody should have to wait for that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from identity_server.domain.durations import MINUTE_MS
from identity_server.domain.identifiers import Threepid, UserId
from identity_server.domain.ports import Clock
from identity_server.services.associations.bind_notices import NoticeWriter
from identity_server.services.outbox.port import BIND_NOTICE, SMS
from identity_server.storage.bulk import in_parts
from identity_server.storage.database import Database, Transaction
from identity_server.storage.erasure.rows import People
from identity_server.storage.repositories.jobs import Job

_PAGE = 500
_FIRST_ID = -1
_CLOCKS_DIFFER_MS = 2 * MINUTE_MS
"""Who adds a job says when, by a clock that may not be this one."""


class _ListPage(Protocol):
    async def __call__(self, *, after_id: int, since_ms: int, limit: int) -> list[Job]: ...


class WaitingJobs:
    """Knows the names in waiting jobs, as of when it has looked last."""

    def __init__(self, *, database: Database, clock: Clock, notices: NoticeWriter) -> None:
        self._database = database
        self._clock = clock
        self._notices = notices
        self._by_name: dict[str, set[int]] = defaultdict(set)
        self._looked_at_ms = 0

    async def look(self) -> None:
        """Open every job that is there."""
        began_at_ms = self._clock.now_ms()
        await self._look_at_all(self._read_page, since_ms=0)
        self._looked_at_ms = began_at_ms

    def user_ids(self) -> set[UserId]:
        """What stands in jobs and may be a Matrix ID."""
        return {UserId(name) for name in self._by_name if name.startswith("@") and ":" in name}

    async def remove(self, tx: Transaction, people: People, *, texted: Collection[Threepid]) -> set[int]:
        """Remove what is about these people, and take their invites out of what is about others.

        Args:
            tx: the transaction that it is a part of.
            people: whoever is named.
            texted: addresses to which no text is sent any more, though other jobs about them stay.

        Returns:
            The ids of the jobs that are gone, or say less now.
        """
        await self._look_at_all(tx.jobs.list_page, since_ms=self._looked_at_ms - _CLOCKS_DIFFER_MS)
        names = people.user_ids | {threepid.address for threepid in people.threepids}
        numbers = {threepid.address for threepid in texted}
        ids = sorted({job_id for name in names | numbers for job_id in self._by_name.get(name, ())})
        touched = set()
        for some in in_parts(ids, _PAGE):
            jobs = await tx.jobs.list_by_id(some)
            concerned = [
                job for job in jobs if _is_text_to(job, numbers) or not names.isdisjoint(_names_in(job.payload))
            ]
            touched |= {job.id for job in concerned}
            stay = [job for job in concerned if _is_about_others(job, names)]
            for job in stay:
                await tx.jobs.rewrite(job.id, self._notices.without_senders(job.payload, people.user_ids))
            await tx.jobs.remove_all([job.id for job in concerned if job not in stay])
        return touched

    async def _read_page(self, *, after_id: int, since_ms: int, limit: int) -> list[Job]:
        return await self._database.read(
            lambda tx: tx.jobs.list_page(after_id=after_id, since_ms=since_ms, limit=limit), bulk=True
        )

    async def _look_at_all(self, list_page: _ListPage, *, since_ms: int) -> None:
        after_id = _FIRST_ID
        while page := await list_page(after_id=after_id, since_ms=since_ms, limit=_PAGE):
            for job in page:
                for name in _names_in(job.payload):
                    self._by_name[name].add(job.id)
            after_id = page[-1].id


def _names_in(payload: object) -> Iterator[str]:
    """Every string in a payload that may be a Matrix ID or an address, wherever a kind of job has it.

    So nothing has to be said here about a kind that comes to be.
    """
    if isinstance(payload, Mapping):
        payload = list(payload.values())
    if isinstance(payload, list):
        for each in payload:
            yield from _names_in(each)
    elif isinstance(payload, str) and ("@" in payload or payload.isdecimal()):
        yield payload


def _is_text_to(job: Job, numbers: Collection[str]) -> bool:
    return job.kind == SMS and job.payload["to"] in numbers


def _is_about_others(job: Job, names: Collection[str]) -> bool:
    """Whether it tells of somebody else's binding, and names these only because they have sent an invite."""
    if job.kind != BIND_NOTICE:
        return False
    body = job.payload["body"]
    return body["mxid"] not in names and body["address"] not in names
