"""Everybody asks for the same thing at the same time, of four processes: nothing fails, and what comes of it could have
come of asking one after the other.

How fast one process learns of another's commits is in tests/processes/test_seen_at_once.py, two nodes are in
tests/postgresql/test_nodes.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fire.load import Load
from tests.fire.report import Proof
from tests.fire.serial import Did, Step, is_serial
from tests.fire.stage import Engine, Stage, set_up
from tests.support.harness import hashed

_PROCESSES = 4
_AT_ONCE = 8
_SECRET = "the_client_secret"
_MAIL_SECONDS = 300.0
_NOTICE_SECONDS = 300.0
_NEW_PEPPER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account, who has proven an address, or several."""

    user_id: str
    token: str
    network: int


class Races:
    """A server of four processes, and people who get in each other's way.

    Attributes:
        owners: what was bound in the end, and nobody touches any more.
    """

    def __init__(self, stage: Stage, load: Load) -> None:
        self.stage = stage
        self.load = load
        self.terms: list[str] = []
        self.known = 0
        self.owners: dict[str, str] = {}

    async def ask(self, who: Person, path: str, body: Any, *, method: str = "POST") -> tuple[int, Any]:
        return await self.load.ask(method, path, network=who.network, token=who.token, json=body)

    async def somebody(self) -> Person:
        self.known += 1
        name, network = f"p{self.known}", self.known << 8
        status, content = await self.load.ask(
            "POST", "account/register", network=network, json=self.stage.homeserver.openid(name)
        )
        assert status == 200, content
        person = Person(self.stage.homeserver.user(name), content["token"], network)
        assert (await self.ask(person, "terms", {"user_accepts": self.terms}))[0] == 200
        return person

    async def asked(self, who: Person, address: str) -> dict[str, str]:
        """A session that isn't validated yet."""
        body = {"client_secret": _SECRET, "email": address, "send_attempt": 1}
        status, content = await self.ask(who, "validate/email/requestToken", body)
        assert status == 200, content
        return {"sid": content["sid"], "client_secret": _SECRET}

    async def proven(self, who: Person, address: str) -> dict[str, str]:
        """A validated session."""
        before = len(self.stage.relay.tokens_for(address))
        proof = await self.asked(who, address)
        async with asyncio.timeout(_MAIL_SECONDS):
            while len(self.stage.relay.tokens_for(address)) == before:
                await asyncio.sleep(0.01)
        token = self.stage.relay.tokens_for(address)[-1]
        status, content = await self.ask(who, "validate/email/submitToken", {**proof, "token": token})
        assert (status, content) == (200, {"success": True})
        return proof

    async def bind(self, who: Person, proof: dict[str, str]) -> Step:
        begun = time.monotonic()
        status, content = await self.ask(who, "3pid/bind", {**proof, "mxid": who.user_id})
        assert status == 200, content
        return Step(Did.BIND, who.user_id, begun, time.monotonic())

    async def unbind(self, who: Person, proof: dict[str, str], address: str) -> Step:
        threepid = {"medium": "email", "address": address}
        begun = time.monotonic()
        status, content = await self.ask(who, "3pid/unbind", {**proof, "mxid": who.user_id, "threepid": threepid})
        assert status == 200, content
        return Step(Did.UNBIND, who.user_id, begun, time.monotonic())

    async def look(self, who: Person, address: str) -> Step:
        """Look an address up, with the pepper of the moment."""
        begun = time.monotonic()
        _, details = await self.ask(who, "hash_details", None, method="GET")
        while True:
            digest = hashed(address, details["lookup_pepper"])
            body = {"algorithm": "sha256", "pepper": details["lookup_pepper"], "addresses": [digest]}
            status, details = await self.ask(who, "lookup", body)
            if status == 200:
                return Step(Did.LOOK, details["mappings"].get(digest), begun, time.monotonic())
            assert details["errcode"] == "M_INVALID_PEPPER", details

    async def owner(self, who: Person, address: str) -> str | None:
        """Who has an address: asked of all processes, which agree."""
        seen = await asyncio.gather(*(self.look(who, address) for _ in range(2 * _PROCESSES)))
        found = {step.who for step in seen}
        assert len(found) == 1, found
        return found.pop()

    async def pepper(self, who: Person) -> str:
        _, details = await self.ask(who, "hash_details", None, method="GET")
        return str(details["lookup_pepper"])

    async def rotate_pepper(self) -> None:
        server = self.stage.server
        command = (sys.executable, "-m", "identity_server", "pepper", "rotate", "-c", str(server.conf))
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **server.env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()


@asynccontextmanager
async def racing(folder: Path, engine: Engine) -> AsyncIterator[Races]:
    async with set_up(folder, engine, workers=_PROCESSES) as stage, Load(stage, keeps_connections=False) as load:
        races = Races(stage, load)
        _, offered = await load.ask("GET", "terms")
        races.terms = [policy["en"]["url"] for policy in offered["policies"].values()]
        yield races


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_races_have_one_outcome(tmp_path: Path, engine: Engine, proof: Proof) -> None:
    rounds = proof.rounds(quick=8, full=200)
    # A command takes seconds to start.
    rotations = proof.rounds(quick=1, full=20)
    async with racing(tmp_path, engine) as races:
        for number in range(rounds):
            alice, bob = await races.somebody(), await races.somebody()
            await same_request(races, alice, f"once{number}@example.com")
            await same_token(races, alice, f"token{number}@example.com")
            await bind_against_unbind(races, alice, bob, f"n{number}@example.com")
            await invite_against_bind(races, alice, bob, f"invited{number}@example.com")
            if number < rotations:
                await bind_against_rotation(races, await races.somebody(), f"rotated{number}@example.com")
            await log_out(races, bob)
        await all_is_as_it_was_told(races)
        assert races.load.failures() == []
    proof.record(
        f"Five races from {_PROCESSES} processes, {_AT_ONCE} requests of a kind at a time, on {engine}: the same mail, the"
        f" same token, binds and unbinds and lookups, invites and a bind, logouts; and binds during {2 * rotations} changes"
        " of the pepper",
        times=5 * rounds + rotations,
        outcome=f"{len(races.load.answers)} answers, none of them 5xx; all could have come of one request after the other,"
        " and all processes agree",
    )


async def same_request(races: Races, alice: Person, address: str) -> None:
    """One session, and one mail."""
    proofs = await asyncio.gather(*(races.asked(alice, address) for _ in range(_AT_ONCE)))
    assert len({proof["sid"] for proof in proofs}) == 1
    await races.stage.relay.token_for(address, seconds=_MAIL_SECONDS)
    assert len(races.stage.relay.tokens_for(address)) == 1


async def same_token(races: Races, alice: Person, address: str) -> None:
    """Validated once: at one time."""
    proof = await races.asked(alice, address)
    token = await races.stage.relay.token_for(address, seconds=_MAIL_SECONDS)
    body = {**proof, "token": token}
    wrong = {**proof, "token": token[::-1]}
    answers = await asyncio.gather(
        *(races.ask(alice, "validate/email/submitToken", body) for _ in range(_AT_ONCE)),
        *(races.ask(alice, "validate/email/submitToken", wrong) for _ in range(2)),
    )
    assert [status for status, _ in answers] == [200] * _AT_ONCE + [400] * 2
    query = f"3pid/getValidated3pid?sid={proof['sid']}&client_secret={_SECRET}"
    seen = await asyncio.gather(*(races.ask(alice, query, None, method="GET") for _ in range(_AT_ONCE)))
    assert {status for status, _ in seen} == {200}
    assert len({content["validated_at"] for _, content in seen}) == 1


async def bind_against_unbind(races: Races, alice: Person, bob: Person, address: str) -> None:
    """Every lookup sees what it could have seen if all had come one after the other, during the race and after it."""
    proofs = [(who, await races.proven(who, address)) for who in (alice, bob)]
    changes = [
        step
        for who, proof in proofs
        for _ in range(_AT_ONCE // 4)
        for step in (races.bind(who, proof), races.unbind(who, proof, address))
    ]
    looks = [races.look(alice, address) for _ in range(_AT_ONCE)]
    history = await asyncio.gather(*changes, *looks)
    writes = history[: len(changes)]
    assert is_serial(writes)
    history += await asyncio.gather(*(races.look(bob, address) for _ in range(_PROCESSES)))
    for look in history[len(changes) :]:
        # Each by itself: of two lookups during a bind, the first may have it already and the second not yet.
        assert is_serial([*writes, look]), (look, writes)
    assert await races.owner(alice, address) in {alice.user_id, bob.user_id, None}
    # Whoever is the last one has the last word.
    await races.bind(bob, proofs[1][1])
    races.owners[address] = bob.user_id
    assert await races.owner(alice, address) == bob.user_id


async def invite_against_bind(races: Races, alice: Person, bob: Person, address: str) -> None:
    """Each invite was told that the address is bound, or goes to the homeserver of whoever has bound it."""
    proof = await races.proven(alice, address)
    invite = {"medium": "email", "address": address, "room_id": "!room:example.org", "sender": bob.user_id}
    *stored, (status, content) = await asyncio.gather(
        *(races.ask(bob, "store-invite", invite) for _ in range(3)),
        races.ask(alice, "3pid/bind", {**proof, "mxid": alice.user_id}),
    )
    assert status == 200, content
    for status, content in stored:
        assert status == 200 or (status, content["errcode"], content["mxid"]) == (
            400,
            "M_THREEPID_IN_USE",
            alice.user_id,
        ), content
    tokens = [content["token"] for status, content in stored if status == 200]
    async with asyncio.timeout(_NOTICE_SECONDS):
        while not all(races.stage.homeserver.invited(token) for token in tokens):
            await asyncio.sleep(0.02)


async def bind_against_rotation(races: Races, alice: Person, address: str) -> None:
    """Whoever has bound is found, during the change and under the new pepper as well; two changes at once are two."""
    before, after = f"before.{address}", f"during.{address}"
    first, second = await races.proven(alice, before), await races.proven(alice, after)
    await races.bind(alice, first)
    rotations = asyncio.gather(races.rotate_pepper(), races.rotate_pepper())
    binding = asyncio.create_task(races.bind(alice, second))
    while not (rotations.done() and binding.done()):
        assert (await races.look(alice, before)).who == alice.user_id
        if binding.done():
            assert (await races.look(alice, after)).who == alice.user_id
    await asyncio.gather(rotations, binding)
    races.owners |= dict.fromkeys((before, after), alice.user_id)
    assert {await races.owner(alice, address) for address in (before, after)} == {alice.user_id}


async def log_out(races: Races, bob: Person) -> None:
    """Everybody may; somebody does, and then nobody is logged in any more."""
    answers = await asyncio.gather(*(races.ask(bob, "account/logout", {}) for _ in range(_AT_ONCE)))
    statuses = {status for status, _ in answers}
    assert 200 in statuses
    assert statuses <= {200, 401}
    seen = await asyncio.gather(*(races.ask(bob, "account", None, method="GET") for _ in range(_AT_ONCE)))
    assert {status for status, _ in seen} == {401}


async def all_is_as_it_was_told(races: Races) -> None:
    """Under a pepper that none of it was bound under, too; and every homeserver has heard of its own."""
    somebody = await races.somebody()
    first = await races.pepper(somebody)
    await races.rotate_pepper()
    async with asyncio.timeout(_NEW_PEPPER_SECONDS):
        while await races.pepper(somebody) == first:
            await asyncio.sleep(0.2)
    for address, owner in races.owners.items():
        assert await races.owner(somebody, address) == owner
    async with asyncio.timeout(_NOTICE_SECONDS):
        while not all(races.stage.homeserver.told_of(*binding) for binding in races.owners.items()):
            await asyncio.sleep(0.05)
