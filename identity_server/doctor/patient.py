"""What is looked over, and with what: the configuration, what the operator asked, and a client's view of the web."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from yarl import URL

from identity_server.config import Config
from identity_server.domain.identifiers import ServerName
from identity_server.domain.phone import PhoneNumber
from identity_server.domain.ports import Clock, Randomness
from identity_server.outbound.federation import Federation
from identity_server.outbound.https import Answer, Disconnected, HttpsClient, NotConnected, Request
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.outbound.visiting import make_visitor
from identity_server.wiring.world import make_federation

_SECONDS = 15.0
_MAX_BYTES = 256 * 1024
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Questions:
    """What the operator wants to know beside what can be seen without being told.

    Attributes:
        homeserver: whose users should be able to use this server.
        client_domain: the domain of Matrix IDs whose apps should be led here.
        mail_to: where a mail is to be sent.
        sms_to: where a text is to be sent.
    """

    homeserver: ServerName | None = None
    client_domain: str | None = None
    mail_to: str | None = None
    sms_to: PhoneNumber | None = None


@dataclass(slots=True)
class Patient:
    """One set-up.

    Attributes:
        web: what an app on this machine would see.
        federation: homeservers, as the server sees them.
        clocks: by how many milliseconds others' clocks were ahead of this machine's, by who they were.
    """

    config: Config
    questions: Questions
    clock: Clock
    randomness: Randomness
    web: HttpsClient
    federation: Federation
    clocks: dict[str, int] = field(default_factory=dict)

    async def visit(
        self, url: URL, *, method: str = "GET", body: bytes | None = None, follow: bool = False
    ) -> Answer:
        """Ask as an app would: from here, with the machine's own idea of which certificates are good.

        Raises:
            HttpsFailure: there was no answer; the text says why.
        """
        try:
            async with asyncio.timeout(_SECONDS):
                for _ in range(_MAX_REDIRECTS + 1):
                    answer = await self.web.send(Request(method=method, url=url, body=body, max_bytes=_MAX_BYTES))
                    if not (follow and answer.status in _REDIRECTS and "Location" in answer.headers):
                        break
                    url = url.join(URL(answer.headers["Location"]))
        except TimeoutError:
            raise NotConnected(f"no answer within {_SECONDS:g} s") from None
        except ValueError:
            raise Disconnected("it redirects to no valid URL") from None
        self.compare_clocks(url.host or "", answer)
        return answer

    def compare_clocks(self, host: str, answer: Answer) -> None:
        """Note what time it is there, if the answer says so."""
        try:
            theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return
        self.clocks[host] = round(1000 * theirs) - self.clock.now_ms()


@asynccontextmanager
async def admit(config: Config, questions: Questions) -> AsyncIterator[Patient]:
    """Get ready to look a set-up over."""
    clock, randomness = SystemClock(), SystemRandomness()
    web = make_visitor(nameservers=config.http.federation_nameservers)
    federation = make_federation(config, clock, randomness)
    try:
        yield Patient(config, questions, clock, randomness, web, federation)
    finally:
        await federation.close()
        await web.close()
