"""What use cases know of the outbox: its kinds of jobs, and that a first attempt can be waited for."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from identity_server.storage.repositories.jobs import Job

MAIL = "mail"
"""A mail; the payload is made and read in `services/outbox/mails.py`."""

SMS = "sms"
"""A text message; the payload is made and read in `services/outbox/texts.py`."""

BIND_NOTICE = "bind-notice"
"""A notice to a homeserver; made and sent by `services/associations/bind_notices.py`."""


class Outcome(Enum):
    """How the first attempt at a job went, as far as it is known."""

    DONE = "done"
    REFUSED = "refused"
    PENDING = "pending"


class Outbox(Protocol):
    """Carries out jobs."""

    def start(self, job: Job) -> None:
        """Try a claimed job without waiting for it: now, or soon if much of its queue is under way."""

    async def attempt(self, job: Job) -> Outcome:
        """Try a claimed job now, and wait a few seconds at most; an unfinished attempt goes on by itself."""
