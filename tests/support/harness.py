"""The whole server on fake ports, with a real database built by the migrations, spoken to over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession, web
from multidict import CIMultiDict

from identity_server.api.protocol import Runner
from identity_server.app import System, open_system
from identity_server.config import Config, load
from identity_server.domain.hashing import encode_digest, hash_threepid
from identity_server.domain.identifiers import Medium, Threepid
from identity_server.metrics import Metrics
from identity_server.outbound.origin_keys import PublishedKeys
from identity_server.server import open_socket
from identity_server.wiring.settings import load_templates
from identity_server.wiring.world import Ports
from tests.support.api_document import assert_documented
from tests.support.canaries import Canaries
from tests.support.databases import put_migrated, read_rows, variables_for, written_to
from tests.support.fakes import FakeClock, FakeHomeservers, FakeMail, FakeRandomness, FakeSms, FakeTraces

ALICE = "@alice:example.org"
BOB = "@bob:example.org"
SECRET = "monkeys_are_GREAT"
_HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any

    @property
    def errcode(self) -> str | None:
        return self.json.get("errcode") if isinstance(self.json, dict) else None


@dataclass(frozen=True, slots=True)
class User:
    """Someone with an account and its token."""

    user_id: str
    token: str


class Harness:
    """The server and everything around it."""

    def __init__(
        self,
        *,
        config: Config,
        system: System,
        metrics: Metrics,
        session: ClientSession,
        base: str,
        fakes: Fakes,
    ) -> None:
        self.config = config
        self.system = system
        self.metrics = metrics
        self.canaries = Canaries()
        self.base = base
        self.clock = fakes.clock
        self.homeservers = fakes.homeservers
        self.mail = fakes.mail
        self.sms = fakes.sms
        self.traces = fakes.traces
        self._session = session

    async def request(self, method: str, path: str, *, as_: User | None = None, **options: Any) -> Reply:
        """Send a request; a path without a leading slash is below v2."""
        path = path if path.startswith("/") else f"/_matrix/identity/v2/{path}".rstrip("/")
        headers = CIMultiDict(options.pop("headers", {}))
        if as_ is not None:
            headers["Authorization"] = f"Bearer {as_.token}"
        self.canaries.note_request(path, options, headers)
        async with self._session.request(
            method, self.base + path, headers=headers, allow_redirects=False, **options
        ) as response:
            reply = await _read(response)
            assert_documented(
                method,
                response.url.raw_path,
                status=reply.status,
                content_type=response.content_type,
                answer=reply.json,
            )
        self.canaries.note_reply(reply.status, reply.body, reply.json)
        return reply

    async def get(self, path: str, *, as_: User | None = None, **options: Any) -> Reply:
        return await self.request("GET", path, as_=as_, **options)

    async def post(self, path: str, json: Any = None, *, as_: User | None = None, **options: Any) -> Reply:
        if json is not None:
            options["json"] = json
        return await self.request("POST", path, as_=as_, **options)

    # --- steps of the story ---------------------------------------------------------------

    async def register(self, user_id: str = ALICE) -> User:
        """Give a user an account."""
        server = user_id.partition(":")[2]
        openid = {
            "access_token": self.homeservers.issue(user_id),
            "token_type": "Bearer",
            "matrix_server_name": server,
            "expires_in": 3600,
        }
        reply = await self.post("account/register", openid)
        assert reply.status == 200, reply.json
        return User(user_id, reply.json["token"])

    async def request_token(
        self, user: User, email: str, *, secret: str = SECRET, attempt: Any = 1, **more: Any
    ) -> Reply:
        """Ask for a validation mail."""
        body = {"client_secret": secret, "email": email, "send_attempt": attempt, **more}
        return await self.post("validate/email/requestToken", body, as_=user)

    async def submit(self, user: User, sid: str, token: str | None = None, *, secret: str = SECRET) -> Reply:
        """Submit a token, by default the one in the newest mail."""
        body = {"sid": sid, "client_secret": secret, "token": token or self.mail.last_token}
        return await self.post("validate/email/submitToken", body, as_=user)

    async def validated(self, user: User, email: str, *, secret: str = SECRET) -> str:
        """A validated session; returns its id."""
        requested = await self.request_token(user, email, secret=secret)
        assert requested.status == 200, requested.json
        sid: str = requested.json["sid"]
        submitted = await self.submit(user, sid, secret=secret)
        assert submitted.status == 200, submitted.json
        return sid

    async def bind(self, user: User, sid: str, *, secret: str = SECRET, mxid: str | None = None) -> Reply:
        """Bind the address of a session."""
        body = {"sid": sid, "client_secret": secret, "mxid": mxid or user.user_id}
        return await self.post("3pid/bind", body, as_=user)

    async def bound(self, user: User, email: str, *, secret: str = SECRET) -> str:
        """Validate and bind; returns the session's id."""
        sid = await self.validated(user, email, secret=secret)
        reply = await self.bind(user, sid, secret=secret)
        assert reply.status == 200, reply.json
        return sid

    async def pepper(self, user: User) -> str:
        """The pepper in use."""
        reply = await self.get("hash_details", as_=user)
        value: str = reply.json["lookup_pepper"]
        return value

    async def rotate_pepper(self) -> None:
        """A rotation as the upkeep carries it out."""
        await self.system.services.peppers.rotate()
        await self.take_pepper_into_use()

    async def take_pepper_into_use(self) -> None:
        """Have the newest pepper given out; other nodes, where there may be any, are given time to build its table."""
        index = self.system.index
        await index.settled()
        await self.system.services.peppers.retire_replaced(index)
        for _ in range(500):
            if index.pepper == index.newest_pepper:
                return
            self.clock.advance(seconds=10)
            await self.system.services.peppers.retire_replaced(index)
        raise AssertionError("the newest pepper is not given out")

    async def lookup(self, user: User, *emails: str, pepper: str | None = None) -> Reply:
        """Look addresses up, hashed as clients do."""
        pepper = pepper or await self.pepper(user)
        hashes = [hashed(email, pepper) for email in emails]
        return await self.post("lookup", {"algorithm": "sha256", "pepper": pepper, "addresses": hashes}, as_=user)

    async def find(self, user: User, email: str) -> str | None:
        """Who is behind an address, as another user finds out."""
        reply = await self.lookup(user, email)
        assert reply.status == 200, reply.json
        found: str | None = next(iter(reply.json["mappings"].values()), None)
        return found

    @asynccontextmanager
    async def internally(self) -> AsyncIterator[Harness]:
        """The same server, spoken to over its internal listener."""
        async with _listening(self.system.internal_app) as base:
            inside = copy(self)
            inside.base = base
            yield inside

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database holds, read from outside."""
        return read_rows(self.config.db.file, query)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        count: int = self.rows(f"SELECT count(*) FROM {table}")[0][0]
        return count

    def search_for_leaks(self) -> None:
        """Make sure that nothing of what this server was trusted with can be found anywhere.

        Raises:
            Leaked: something can.
        """
        self.canaries.note_mails(self.mail.sent)
        self.canaries.note_texts(self.sms.sent)
        self.canaries.note_keys(self.config.crypto.key_dir)
        index = [file.read_bytes() for file in sorted(self.config.index_folder.iterdir()) if file.is_file()]
        places = {
            "database": written_to(self.config.db.file),
            "index": b"\n".join(index),
            "metrics": self.metrics.totals.to_bytes(),
            "traces": "\n".join(self.traces.noted).encode(),
        }
        self.canaries.search(places, peppers=[value for (value,) in self.rows("SELECT value FROM peppers")])


class Fakes:
    """The fake ports of one harness."""

    def __init__(
        self, *, randomness: str = "seed", clock: FakeClock | None = None, homeservers: FakeHomeservers | None = None
    ) -> None:
        self.clock = clock or FakeClock()
        self.randomness = FakeRandomness(randomness)
        self.homeservers = homeservers or FakeHomeservers()
        self.origin_keys = PublishedKeys(federation=self.homeservers, clock=self.clock)
        self.mail = FakeMail()
        self.sms = FakeSms()
        self.traces = FakeTraces()
        self.offers_sms = True

    def beside(self) -> Fakes:
        """Those of another process in the same world: random values are its own, so that none is drawn twice."""
        return Fakes(randomness="beside", clock=self.clock, homeservers=self.homeservers)

    @property
    def ports(self) -> Ports:
        sms = self.sms if self.offers_sms else None
        return Ports(self.clock, self.randomness, self.homeservers, self.origin_keys, self.mail, sms, self.traces)


def make_config(directory: Path, *, settings: Mapping[str, str] | None = None) -> Config:
    """A configuration in a directory of its own; settings are written `section.key.name`."""
    variables = {
        "GENERAL__SERVER_NAME": "id.example.org",
        "HTTP__CLIENT_HTTP_BASE": "https://id.example.org",
        "CRYPTO__KEY_DIR": str(directory / "keys"),
        # The mails that a test is about should be the only ones; those about notices switch them on.
        "EMAIL__EMAIL_NOTICES": "false",
        **(settings or {}),
    }
    conf = directory / "sydent.conf"
    if not conf.exists():
        conf.write_text("[general]\n")
    ours = {f"IDENTITY_SERVER__{name}": value for name, value in variables.items()}
    return load(conf, environ={**variables_for(directory / "db" / "identity.db"), **ours})


@asynccontextmanager
async def running(
    directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    fakes: Fakes | None = None,
    key_lease_seconds: float = _HOUR_SECONDS,
) -> AsyncIterator[Harness]:
    """A server over a directory; run again over the same one, it is the same server after a restart.

    It looks at the root keys once, so that a look more is in nobody's count of statements, unless told otherwise.
    """
    config = make_config(directory, settings=settings)
    fakes = fakes or Fakes()
    metrics = Metrics()
    await put_migrated(config.db.file)
    async with (
        open_system(
            config, fakes.ports, load_templates(config), metrics=metrics, key_lease_seconds=key_lease_seconds
        ) as system,
        ClientSession() as session,
        _listening(system.app) as base,
    ):
        harness = Harness(config=config, system=system, metrics=metrics, session=session, base=base, fakes=fakes)
        yield harness
        harness.search_for_leaks()


@asynccontextmanager
async def _listening(app: web.Application) -> AsyncIterator[str]:
    runner = Runner(app, shutdown_timeout=1.0)
    await runner.setup()
    listener = open_socket("127.0.0.1", 0)
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


def hashed(email: str, pepper: str) -> str:
    """The hash of a canonical address."""
    return encode_digest(hash_threepid(Threepid(Medium.EMAIL, email), pepper))


async def _read(response: ClientResponse) -> Reply:
    body = await response.read()
    is_json = response.content_type == "application/json"
    return Reply(response.status, response.headers, body, await response.json() if is_json else None)
