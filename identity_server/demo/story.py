"""The story: Alice lets herself be found by her e-mail address, Bob finds her, and she takes it back.

The one rule: every step says what happens, does it, checks it, and says why it matters for privacy.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import signedjson.key
import signedjson.sign
from signedjson.sign import SignatureVerifyException
from unpaddedbase64 import decode_base64

from identity_server.demo.client import SUCCESS, Unexpected, Wanted, Web
from identity_server.demo.narrator import Detail, Narrator
from identity_server.demo.stage import Stage
from identity_server.domain.hashing import encode_digest, hash_threepid
from identity_server.domain.identifiers import Medium, Threepid
from identity_server.wiring.desks import open_peppers

ALICES_EMAIL = "alice@example.org"
_CAROLS_EMAIL = "carol@example.org"
_V2 = "/_matrix/identity/v2"
_LINK = re.compile(r"https://\S+")
_SECRET_BYTES = 24
_PEPPER_TRIES = 50
_PEPPER_PAUSE_SECONDS = 0.1

_TERMS_FIRST = Wanted(403, "M_TERMS_NOT_SIGNED")
_NOT_YET = Wanted(400, "M_SESSION_NOT_VALIDATED")
_NOBODY = Wanted(401, "M_UNAUTHORIZED")


@dataclass(slots=True)
class Person:
    """A user, and what the user's app knows.

    Attributes:
        homeserver_token: for the homeserver; never leaves app and homeserver.
        openid: what the homeserver vouches with.
        token: for the identity server, once registered.
    """

    name: str
    user_id: str
    homeserver_token: str
    openid: dict[str, Any]
    token: str = ""


class Story:
    """Tells the steps in their order; what one step learns, later ones use."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._narrator = narrator
        self._web = Web(stage.session, narrator)
        self._alice = self._person("Alice")
        self._bob = self._person("Bob")
        self._session: dict[str, str] = {}
        self._mail_link = ""
        self._pepper = ""

    async def tell(self) -> None:
        """Tell all of it. Raises Unexpected where something doesn't come out as it should."""
        self._introduce()
        for number, step in enumerate(STEPS, start=1):
            self._narrator.step(number, len(STEPS), step.title)
            await step.tell(self)

    def _introduce(self) -> None:
        self._narrator.title("A Matrix identity server, from registration to unbinding")
        self._narrator.say(
            f"""Alice has a Matrix account and the address {ALICES_EMAIL}. Bob knows that address, and would like to
            find her on Matrix. An identity server brings them together, if she wants it."""
        )
        self._narrator.say("These run now, on this machine only, and are gone when the story ends:")
        self._narrator.facts(
            {
                "identity server": f"{self._stage.url}  (the real one, on SQLite)",
                "homeserver": f"{self._stage.homeserver.url}  (a small sample)",
                "mail server": f"localhost:{self._stage.mails.port}  (by TLS; keeps mails, delivers none)",
            }
        )

    # --- the steps ------------------------------------------------------------------------

    async def openid_token(self) -> None:
        """The homeserver vouches for Alice."""
        self._narrator.say(
            """Alice's app asks her homeserver for an OpenID token: a note that says "this is Alice", and is good for
            nothing else."""
        )
        await self._fetch_openid(self._alice)
        self._narrator.privacy(
            """the identity server never gets Alice's password, nor the token of her Matrix account. It could not read
            her messages if it wanted to."""
        )

    async def register(self) -> None:
        """An account at the identity server."""
        self._narrator.say(
            """The app hands that note to the identity server. The server asks the homeserver whose it is, by TLS
            (GET /_matrix/federation/v1/openid/userinfo), and opens an account for her."""
        )
        await self._register(self._alice)
        self._narrator.say("With that account she can do nothing yet, because of the terms:")
        await self._ask("GET", "account", by=self._alice, wanted=_TERMS_FIRST)
        self._narrator.privacy(
            """of the token that Alice got, the server keeps only a hash. A copy of its database lets nobody in."""
        )

    async def terms(self) -> None:
        """Consent before anything else."""
        self._narrator.say(
            """The app fetches the policies, shows them to Alice, and sends back what she agreed to. (They come in
            several languages; of the first answer, only the English is shown here.)"""
        )
        await self._accept_terms(self._alice)
        await self._ask("GET", "account", by=self._alice)
        self._narrator.privacy(
            """before Alice agrees, the server does nothing with her data. When a policy changes, it asks again."""
        )

    async def request_mail(self) -> None:
        """A mail to the address."""
        self._narrator.say(
            f"""Alice wants to be found by {ALICES_EMAIL}, so she has to show that it is hers. Her app makes up a
            secret, and gets a session id (sid). Together they stand for this session from now on."""
        )
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        body = {"email": ALICES_EMAIL, "client_secret": secret, "send_attempt": 1}
        answer = await self._ask("POST", "validate/email/requestToken", body, by=self._alice)
        self._session = {"sid": answer["sid"], "client_secret": secret}
        await self._read_mail()
        self._narrator.privacy(
            """the mail names the account that asked, so that nobody confirms for a stranger unawares. Its link holds
            one random token and nothing of the session."""
        )

    async def open_link(self) -> None:
        """The link asks first, the button confirms."""
        self._narrator.say("Alice opens the link in her browser:")
        page = await self._web.open_page(self._mail_link)
        self._narrator.say("That alone confirms nothing, as her app can tell:")
        await self._ask("GET", "3pid/getValidated3pid", by=self._alice, query=self._session, wanted=_NOT_YET)
        self._narrator.say("Now she presses the button:")
        await self._web.press(page)
        validated = await self._ask("GET", "3pid/getValidated3pid", by=self._alice, query=self._session)
        self._check(validated["address"] == ALICES_EMAIL, "the address is confirmed as hers")
        self._narrator.privacy(
            """mail filters open links by themselves, but press no buttons. No address is confirmed without a
            person."""
        )

    async def bind(self) -> None:
        """The association, signed."""
        self._narrator.say(
            """Nobody finds Alice yet. Only now she says: whoever knows this address may know my Matrix ID. (Most apps
            have the homeserver send this request; it is the same one.) The server answers with a signed statement."""
        )
        body = {**self._session, "mxid": self._alice.user_id}
        association = await self._ask("POST", "3pid/bind", body, by=self._alice)
        key_id = next(iter(association["signatures"][self._stage.config.general.server_name]))
        published = await self._ask("GET", f"pubkey/{key_id}")
        verified = self._is_signed(association, key_id=key_id, public_key=published["public_key"])
        self._check(verified, "the signature was made by the key that the server publishes")
        self._narrator.privacy(
            """only the account that confirmed an address can bind it, and only to itself. Anybody can check the
            signature; nobody else can make it."""
        )

    def _database_files(self) -> list[Path]:
        """The database, and the index beside it."""
        return sorted(file for file in self._stage.place.database.rglob("*") if file.is_file())

    async def look_like_a_thief(self) -> None:
        """What a stolen database, or the log, gives away."""
        database = self._database_files()
        self._narrator.say(
            f"""Suppose that somebody steals the database. We search every byte of it
            ({", ".join(file.name for file in database)}), and of the server's log, which was kept at its most
            talkative (log.level = DEBUG)."""
        )
        stolen, log = _bytes_of(database), _bytes_of([self._stage.place.log])
        alice = self._alice.user_id.encode()
        self._check(alice in stolen, "Alice's Matrix ID is in the database: the search works")
        hidden = {
            "her address": ALICES_EMAIL,
            "her access token": self._alice.token,
            "the token of the mail's link": self._mail_link.partition("token=")[2],
            "the secret of her session": self._session["client_secret"],
        }
        for name, value in hidden.items():
            self._check(value.encode() not in stolen + log, f"{name} is in neither")
        self._narrator.privacy(
            """addresses are sealed with a key that lives elsewhere (keys/root.key); of tokens and secrets there are
            only hashes. A lost backup tells nobody's address, as long as the key isn't lost with it."""
        )

    async def find_by_hash(self) -> None:
        """The hashed lookup by a second user."""
        self._narrator.say("Bob does what Alice did in steps 1 to 3:")
        with self._narrator.detail(Detail.LINE):
            await self._fetch_openid(self._bob)
            await self._register(self._bob)
            await self._accept_terms(self._bob)
        self._narrator.say(
            f"""In his contacts are {ALICES_EMAIL} and {_CAROLS_EMAIL}. His app asks how to hash, and sends
            SHA-256("address email pepper") of each, never an address:"""
        )
        self._pepper = (await self._ask("GET", "hash_details", by=self._bob))["lookup_pepper"]
        found = await self._look_up(ALICES_EMAIL, _CAROLS_EMAIL)
        alices_hash = self._hash(ALICES_EMAIL)
        self._check(found == {alices_hash: self._alice.user_id}, "Bob has found Alice, and nobody else")
        stolen = _bytes_of(self._database_files())
        stored = alices_hash.encode() in stolen or decode_base64(alices_hash) in stolen
        self._check(not stored, "the hash isn't in the database: lookups are answered from memory")
        self._narrator.privacy(
            """all that the server learns of Carol, who isn't here, is a hash. It can't be read; one can only guess
            addresses and compare. The pepper is there so that nobody does that beforehand."""
        )

    async def rotate_pepper(self) -> None:
        """A new pepper, without a gap."""
        self._narrator.say(
            """From time to time the server changes the pepper of those hashes. The operator can do it, too, and does
            it now (identity-server pepper rotate). Soon the running server gives out the new one:"""
        )
        async with open_peppers(self._stage.config) as peppers:
            await peppers.rotate()
        await self._until_pepper_changes()
        fresh = (await self._ask("GET", "hash_details", by=self._bob))["lookup_pepper"]
        self._narrator.say("An app that read the old one a moment ago is still served:")
        found = await self._look_up(ALICES_EMAIL)
        self._check(self._alice.user_id in found.values(), "the old pepper finds Alice for a while")
        self._pepper = fresh
        with self._narrator.detail(Detail.NOTHING):
            found = await self._look_up(ALICES_EMAIL)
        self._check(self._alice.user_id in found.values(), "the new pepper finds her, too")
        self._narrator.privacy(
            "hashes that somebody collected, or worked out for a great many addresses, become worthless."
        )

    async def unbind(self) -> None:
        """Alice takes it back."""
        self._narrator.say("Alice changes her mind. Her session proves that the address is hers:")
        threepid = {"medium": "email", "address": ALICES_EMAIL}
        await self._ask("POST", "3pid/unbind", {**self._session, "mxid": self._alice.user_id, "threepid": threepid})
        self._narrator.say("Bob looks again:")
        found = await self._look_up(ALICES_EMAIL)
        self._check(not found, "Alice can't be found any more, from this moment on")
        self._check(self._count("associations") == 0, "no row of the association is left in the database")
        self._narrator.privacy("taking back is as easy as giving, and what is taken back is deleted, not hidden.")

    async def log_out(self) -> None:
        """Alice leaves."""
        self._narrator.say("Alice logs out. Her token is worth nothing from now on:")
        await self._ask("POST", "account/logout", by=self._alice)
        await self._ask("GET", "account", by=self._alice, wanted=_NOBODY)
        days = self._stage.config.general.access_token_lifetime_days
        self._narrator.privacy(f"a token that nobody uses dies by itself after {days} days.")

    # --- what steps share -----------------------------------------------------------------

    def _person(self, name: str) -> Person:
        user_id, token = self._stage.homeserver.sign_up(name.lower())
        return Person(name=name, user_id=user_id, homeserver_token=token, openid={})

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        by: Person | None = None,
        query: dict[str, str] | None = None,
        wanted: Wanted = SUCCESS,
        interesting: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> dict[str, Any]:
        """Ask the identity server as someone, or as nobody in particular."""
        token = by.token if by is not None else None
        url = f"{self._stage.url}{_V2}/{path}"
        return await self._web.ask(
            method, url, body, token=token, query=query, wanted=wanted, interesting=interesting
        )

    async def _fetch_openid(self, person: Person) -> None:
        url = f"{self._stage.homeserver.url}/_matrix/client/v3/user/{person.user_id}/openid/request_token"
        person.openid = await self._web.ask("POST", url, {}, token=person.homeserver_token)

    async def _register(self, person: Person) -> None:
        answer = await self._ask(
            "POST", "account/register", person.openid, interesting=lambda answer: {"token": answer["token"]}
        )
        person.token = answer["token"]

    async def _accept_terms(self, person: Person) -> None:
        answer = await self._ask("GET", "terms", interesting=_english_policies)
        accepted = list(_english_policies(answer).values())
        await self._ask("POST", "terms", {"user_accepts": accepted}, by=person)

    async def _read_mail(self) -> None:
        try:
            mail = await self._stage.mails.next_mail()
        except TimeoutError:
            raise Unexpected("The server said that it sent a mail, but none arrived.") from None
        self._narrator.say("The mail arrives:")
        self._narrator.mail(mail)
        body = mail.get_body(("plain",))
        link = _LINK.search(body.get_content()) if body is not None else None
        if link is None or not link[0].startswith(self._stage.url):
            raise Unexpected("The mail holds no link to the identity server.")
        self._mail_link = link[0]

    def _is_signed(self, association: dict[str, Any], *, key_id: str, public_key: str) -> bool:
        key = signedjson.key.decode_verify_key_bytes(key_id, decode_base64(public_key))
        try:
            signedjson.sign.verify_signed_json(association, self._stage.config.general.server_name, key)
        except SignatureVerifyException:
            return False
        return True

    async def _look_up(self, *emails: str) -> dict[str, str]:
        hashes = [self._hash(email) for email in emails]
        body = {"algorithm": "sha256", "pepper": self._pepper, "addresses": hashes}
        mappings: dict[str, str] = (await self._ask("POST", "lookup", body, by=self._bob))["mappings"]
        return mappings

    def _hash(self, email: str) -> str:
        return encode_digest(hash_threepid(Threepid(Medium.EMAIL, email), self._pepper))

    async def _until_pepper_changes(self) -> None:
        with self._narrator.detail(Detail.NOTHING):
            for _ in range(_PEPPER_TRIES):
                if (await self._ask("GET", "hash_details", by=self._bob))["lookup_pepper"] != self._pepper:
                    return
                await asyncio.sleep(_PEPPER_PAUSE_SECONDS)
        raise Unexpected("The server was to give out the new pepper, and still gives out the old one.")

    def _count(self, table: str) -> int:
        """How many rows the database holds, seen from outside the server."""
        with closing(sqlite3.connect(f"{self._stage.config.db.file.as_uri()}?mode=ro", uri=True)) as connection:
            count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - our own name
        return count

    def _check(self, holds: bool, text: str) -> None:  # noqa: FBT001 - a check is made of just this
        if not holds:
            raise Unexpected(f'This was to be so, and is not: "{text}".')
        self._narrator.checked(text)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story."""

    title: str
    tell: Callable[[Story], Awaitable[None]]


STEPS = (
    Step("Alice's homeserver vouches for her", Story.openid_token),
    Step("Alice registers with the identity server", Story.register),
    Step("Alice accepts the terms", Story.terms),
    Step("Alice asks for a validation mail", Story.request_mail),
    Step("Alice follows the link and confirms", Story.open_link),
    Step("Alice binds her address to her Matrix ID", Story.bind),
    Step("What a thief would find", Story.look_like_a_thief),
    Step("Bob finds Alice by a hash", Story.find_by_hash),
    Step("The pepper is rotated", Story.rotate_pepper),
    Step("Alice unbinds her address", Story.unbind),
    Step("Alice logs out", Story.log_out),
)


def _english_policies(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: policy["en"]["url"] for name, policy in answer["policies"].items()}


def _bytes_of(files: Iterable[Path]) -> bytes:
    return b"".join(file.read_bytes() for file in files)
