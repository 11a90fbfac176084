"""`identity-server account export`, beside a server in use: everything of one Matrix ID, and nothing of another."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from identity_server.__main__ import main
from identity_server.api.visibility import VISIBILITY_PATH
from identity_server.outbound.system import SystemClock
from tests.flows.test_invites import invite, settle
from tests.flows.test_privacy_page import ask
from tests.support.databases import variables_for
from tests.support.harness import Fakes, Harness, User, running

TERMS = Path(__file__).parents[2] / "terms"


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    for name, value in variables_for(tmp_path / "db" / "identity.db").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__SERVER_NAME", "id.example.org")
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__TERMS_PATH", str(TERMS))
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__LOG_LEVEL", "WARNING")
    fakes = Fakes()
    # The command line reads the real clock.
    fakes.clock.ms = SystemClock().now_ms()
    async with running(tmp_path, settings={"GENERAL__TERMS_PATH": str(TERMS)}, fakes=fakes) as harness:
        yield harness


async def command(server: Harness, *arguments: str, code: int = 0) -> Result:
    arguments = (*arguments, "-c", str(server.config.path))
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == code, result.output
    return result


@dataclass(frozen=True, slots=True)
class Person:
    """What one user has left on the server.

    Attributes:
        shown: what must be in an export, and in nobody else's.
        secret: what must be in none.
    """

    user: User
    shown: tuple[str, ...]
    secret: tuple[str, ...]


async def someone(server: Harness, name: str, number: str) -> Person:
    """Do everything that people can do, with values that nobody else has."""
    home = f"{name}.example"
    user, again = [await server.register(f"@{name}:{home}") for _ in range(2)]
    policies = (await server.get("terms")).json["policies"]
    accepted = {"user_accepts": [each["en"]["url"] for each in policies.values()]}
    for each in (user, again):
        assert (await server.post("terms", accepted, as_=each)).status == 200
    bound, proven, asked = (f"{name}.{word}@mail.example" for word in ("bound", "proven", "asked"))
    sids = [await server.bound(user, bound, secret=f"{name}-secret-bound")]
    hidden = {"medium": "email", "address": bound, "visibility": "homeserver"}
    assert (await server.request("PUT", VISIBILITY_PATH, as_=user, json=hidden)).status == 200
    sids.append(await server.validated(user, proven, secret=f"{name}-secret-proven"))
    link = f"https://{name}.example/welcome"
    pending = await server.request_token(user, asked, secret=f"{name}-secret-asked", next_link=link)
    sids += [pending.json["sid"], await bound_number(server, user, number, secret=f"{name}-secret-phone")]
    room = {"room_id": f"!{name}-room:{home}", "room_name": f"Garden of {name}", "sender_display_name": f"Mx {name}"}
    friend = f"{name}-friend@mail.example"
    sent = await invite(server, user, friend, **room)
    await settle(server)
    mailed = [
        mail.variables[key] for mail in server.mail.sent for key in ("token", "invite_url") if key in mail.variables
    ]
    secrets = [f"{name}-secret-{what}" for what in ("bound", "proven", "asked", "phone")]
    return Person(
        user,
        shown=(user.user_id, bound, proven, asked, number.removeprefix("+"), friend, *room.values(), link),
        secret=(user.token, again.token, *sids, *secrets, *mailed, sent.json["token"]),
    )


async def bound_number(server: Harness, user: User, number: str, *, secret: str) -> str:
    body = {"client_secret": secret, "country": "GB", "phone_number": number, "send_attempt": 1}
    sid: str = (await server.post("validate/msisdn/requestToken", body, as_=user)).json["sid"]
    proof = {"sid": sid, "client_secret": secret, "token": server.sms.last_code}
    assert (await server.post("validate/msisdn/submitToken", proof, as_=user)).status == 200
    assert (await server.bind(user, sid, secret=secret)).status == 200
    return sid


async def exported(server: Harness, folder: Path, user: User, *options: str) -> tuple[str, Any]:
    """What the files of an export hold: the one to read, and the one for programs."""
    await command(server, "account", "export", user.user_id, "--to", str(folder), *options)
    name = user.user_id.removeprefix("@").replace(":", "_")
    files = [folder / f"{name}.{form}" for form in ("html", "json")]
    assert {file.name for file in folder.iterdir()} == {file.name for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    page, data = (file.read_text(encoding="utf-8") for file in files)
    for file in files:
        file.unlink()
    return unescape(page), json.loads(data)


async def test_everything_of_one_and_nothing_of_another(server: Harness, tmp_path: Path) -> None:
    alice = await someone(server, "alice", "+447700900123")
    bob = await someone(server, "bob", "+447700900456")
    # Strangers have to do with Alice's addresses, too.
    mallory = await server.register("@mallory:elsewhere.example")
    policies = (await server.get("terms")).json["policies"]
    await server.post("terms", {"user_accepts": [each["en"]["url"] for each in policies.values()]}, as_=mallory)
    await server.request_token(mallory, "alice.bound@mail.example", secret="mallory-secret")
    await ask(server, "alice.bound@mail.example")
    await server.system.services.journal.link()

    for person, other in ((alice, bob), (bob, alice)):
        page, data = await exported(server, tmp_path / "out", person.user)
        text = json.dumps(data, ensure_ascii=False)
        for form in (page, text):
            assert [value for value in person.shown if value not in form] == []
            assert [value for value in (*other.shown, "mallory") if value in form] == []
            assert [value for value in (*person.secret, *other.secret) if value in form] == []


async def test_what_it_says(server: Harness, tmp_path: Path) -> None:
    alice = await someone(server, "alice", "+447700900123")
    bob = await server.register("@bob:elsewhere.example")
    policies = (await server.get("terms")).json["policies"]
    await server.post("terms", {"user_accepts": [each["en"]["url"] for each in policies.values()]}, as_=bob)
    # An invite to somebody who hides waits until the homeserver has been told.
    hidden = {"medium": "email", "address": "alice.bound@mail.example", "visibility": "nobody"}
    await server.request("PUT", VISIBILITY_PATH, as_=alice.user, json=hidden)
    assert (
        await invite(server, bob, "alice.bound@mail.example", room_id="!bobs:room", guest_access_token="gu3st")
    ).status == 200

    page, data = await exported(server, tmp_path / "out", alice.user)
    assert data["mxid"] == alice.user.user_id
    assert data["account"]["since"].endswith("Z")
    assert len(data["access_tokens"]) == 2
    assert [(each["id"], each["language"]) for each in data["accepted_terms"]] == [
        ("privacy_policy", "en"),
        ("terms_of_service", "en"),
    ]
    assert {(each["medium"], each["address"], each["visibility"]) for each in data["bindings"]} == {
        ("msisdn", "447700900123", "everyone"),
        ("email", "alice.bound@mail.example", "nobody"),
    }
    confirmed = {each["address"]: each["confirmed_at"] is not None for each in data["confirmations"]}
    assert confirmed == {
        "alice.bound@mail.example": True,
        "alice.proven@mail.example": True,
        "alice.asked@mail.example": False,
        "447700900123": True,
    }
    assert [each["address"] for each in data["invites_sent"]] == ["alice-friend@mail.example"]
    assert [(each["address"], each["sender"]) for each in data["invites_received"]] == [
        ("alice.bound@mail.example", bob.user_id)
    ]
    # Whoever invites an address asks for it, too.
    assert [each["addresses_at_most"] for each in data["searches"]] == [1]
    assert "gu3st" not in page + json.dumps(data)
    assert [each["event"] for each in data["journal"]] == [
        "bound",
        "visibility_changed",
        "bound",
        "visibility_changed",
    ]
    assert "Only users of your homeserver, alice.example" not in page
    assert "Nobody; invitations still arrive" in page
    # The next one says that there was this one.
    await server.lookup(alice.user, "carol@example.com", "dave@example.com")
    await server.lookup(bob, "erin@example.com")
    _, again = await exported(server, tmp_path / "out", alice.user)
    assert [each["event"] for each in again["journal"]][-1] == "account_exported"
    # Something may have been set aside for what comes next.
    (count,) = [each["addresses_at_most"] for each in again["searches"]]
    assert 3 <= count <= 4
    listed = (await command(server, "audit", "find", alice.user.user_id)).stdout
    assert listed.count("account_exported") == 2


async def test_page_stands_by_itself_in_every_language(server: Harness, tmp_path: Path) -> None:
    alice = await someone(server, "alice", "+447700900123")
    for language, title in (
        ("en", "What is held about your Matrix ID"),
        ("fr", "Ce qui est conservé sur votre identifiant Matrix"),
        ("de", "Was über Ihre Matrix-ID gespeichert ist"),
        ("es", "Qué se guarda sobre su ID de Matrix"),
    ):
        page, _ = await exported(server, tmp_path / "out", alice.user, "--language", language)
        assert f'<html lang="{language}">' in page
        assert f"<h1>{title}</h1>" in page
        # Links may be followed; nothing is loaded.
        assert re.findall(r"<(script|link|img|iframe|object|form)\b|\bsrc=|url\(|@import", page) == []
    await command(server, "account", "export", alice.user.user_id, "--to", str(tmp_path), "--language", "xx", code=2)


async def test_what_time_has_taken_is_not_there(server: Harness, tmp_path: Path) -> None:
    alice = await someone(server, "alice", "+447700900123")
    server.clock.advance(hours=30)
    await server.system.services.validation.cleanup()
    page, data = await exported(server, tmp_path / "out", alice.user)
    assert [each["address"] for each in data["confirmations"]] == [None] * len(data["confirmations"])
    assert "alice.asked@mail.example" not in page
    assert "deleted already" in page


async def test_files_that_exist_are_left_alone(server: Harness, tmp_path: Path) -> None:
    alice = await someone(server, "alice", "+447700900123")
    page, data = tmp_path / "page", tmp_path / "new" / "data"
    page.write_text("mine")
    arguments = ("account", "export", alice.user.user_id, "--html", str(page), "--json", str(data))
    assert "File exists" in (await command(server, *arguments, code=1)).stderr
    assert page.read_text() == "mine"
    assert not data.exists()
    assert "account_exported" not in (await command(server, "audit", "list")).stdout
    page.unlink()
    await command(server, *arguments)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert json.loads(data.read_text())["mxid"] == alice.user.user_id


async def test_nothing_is_written_about_nobody(server: Harness, tmp_path: Path) -> None:
    await someone(server, "alice", "+447700900123")
    folder = tmp_path / "out"
    for nobody in ("@nobody:elsewhere.example", "@ALICE:alice.example"):
        refused = await command(server, "account", "export", nobody, "--to", str(folder), code=1)
        assert f"nothing is held about {nobody}" in refused.stderr
    await command(server, "account", "export", "alice.bound@mail.example", "--to", str(folder), code=2)
    await command(server, "account", "export", "@alice:alice.example", code=2)
    assert list(folder.iterdir()) == []
    assert "account_exported" not in (await command(server, "audit", "list")).stdout
