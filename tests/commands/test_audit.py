"""`identity-server audit`, beside a server in use; and that other commands leave their entries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from identity_server.__main__ import main
from identity_server.domain.ports import DeliveryPostponed
from identity_server.outbound.system import SystemClock
from tests.support.databases import variables_for, write_rows
from tests.support.harness import ALICE, Fakes, Harness, running

ADDRESS = "alice@example.com"


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    for name, value in variables_for(tmp_path / "db" / "identity.db").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__SERVER_NAME", "id.example.org")
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__LOG_LEVEL", "WARNING")
    fakes = Fakes()
    # The command line reads the real clock.
    fakes.clock.ms = SystemClock().now_ms()
    async with running(tmp_path, fakes=fakes) as harness:
        yield harness


async def command(server: Harness, *arguments: str, code: int = 0) -> Result:
    arguments = (*arguments, "-c", str(server.config.path))
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == code, result.output
    return result


async def lines(server: Harness, *arguments: str) -> list[list[str]]:
    """The words of each line that a command prints."""
    return [line.split() for line in (await command(server, *arguments)).stdout.splitlines()]


async def test_journal_is_read_kept_and_verified(server: Harness, tmp_path: Path) -> None:
    assert "nothing is linked yet" in (await command(server, "audit", "head", code=1)).stderr
    alice = await server.register(ALICE)
    await server.bound(alice, ADDRESS)
    assert [(words[0], words[2]) for words in await lines(server, "audit", "list")] == [("-", "bound")]
    assert "Not linked yet" in (await command(server, "audit", "verify")).stdout
    await server.system.services.journal.link()

    kept = tmp_path / "head.json"
    kept.write_text((await command(server, "audit", "head")).stdout)
    head = json.loads(kept.read_text())
    await server.bound(await server.register("@bob:example.org"), ADDRESS, secret="b")
    await server.system.services.journal.link()

    by_number = [(words[0], words[2]) for words in await lines(server, "audit", "list")]
    assert by_number == [("1", "bound"), ("2", "replaced"), ("3", "bound")]
    assert len(await lines(server, "audit", "list", "--limit", "1")) == 1
    assert len(await lines(server, "audit", "list", "--event", "bound")) == 2
    assert len(await lines(server, "audit", "find", ADDRESS.upper())) == 3
    assert len(await lines(server, "audit", "find", "@bob:example.org")) == 1
    for nobody in ("+447700900123", "example.org", "bob@example.com"):
        assert "There are no such entries." in (await command(server, "audit", "find", nobody)).stdout
    await command(server, "audit", "find", "not an address", code=2)
    dumped = (await command(server, "audit", "dump")).stdout.splitlines()
    assert [json.loads(line)["seq"] for line in dumped] == [1, 2, 3]

    for text in (str(kept), head["hash"], bytes.fromhex(head["hash"]).hex(":", 8)):
        assert "Entries 1 to 3, 3 in all" in (await command(server, "audit", "verify", "--head", text)).stdout
    assert "No entry has the hash" in (await command(server, "audit", "verify", "--head", "0" * 64, code=1)).stderr

    kept.write_text(json.dumps({**head, "seq": 2}))
    assert "not signed" in (await command(server, "audit", "verify", "--head", str(kept), code=2)).stderr
    for no_head in ("[]", "nonsense"):
        kept.write_text(no_head)
        await command(server, "audit", "verify", "--head", str(kept), code=2)
    await command(server, "audit", "verify", "--head", str(tmp_path / "nowhere"), code=2)


async def test_journal_that_was_tampered_with_is_told_and_begun_anew(server: Harness) -> None:
    alice = await server.register(ALICE)
    await server.bound(alice, ADDRESS)
    await server.system.services.journal.link()
    write_rows(server.config.db.file, "UPDATE audit_chain SET at_ms = 999999999999999999")

    assert "error: Entry 1 was altered" in (await command(server, "audit", "verify", code=1)).stderr
    assert "999999999999999999 ms" in (await command(server, "audit", "list")).stdout

    await command(server, "audit", "restart", code=1)
    assert "Removed: 1 entry." in (await command(server, "audit", "restart", "--yes")).stdout
    await server.system.services.journal.link()
    assert [(words[0], words[2:]) for words in await lines(server, "audit", "list")] == [
        ("2", ["journal_restarted", "1"])
    ]
    await command(server, "audit", "verify")


async def test_commands_leave_their_entries(server: Harness) -> None:
    alice = await server.register(ALICE)
    body = {"medium": "email", "address": "carol@example.com", "room_id": "!r", "sender": alice.user_id}
    server.mail.answers.append(DeliveryPostponed("out of order"))
    assert (await server.post("store-invite", body, as_=alice)).status == 200
    await server.system.runner.run_until_idle()
    [(invite_id,)] = server.rows("SELECT id FROM invites")

    await command(server, "pepper", "rotate")
    await command(server, "jobs", "retry")
    await command(server, "jobs", "retry", "--claimed")
    await command(server, "invites", "resend", str(invite_id))
    await command(server, "invites", "revoke", str(invite_id))
    await command(server, "invites", "revoke", str(invite_id), code=1)

    done = [words[2:] for words in await lines(server, "audit", "list")]
    assert ["pepper_rotated"] in done
    assert ["jobs_retried", "1"] in done
    assert done[-2:] == [["invite_resent"], ["invite_revoked"]]
    about = [words[2:] for words in await lines(server, "audit", "find", "carol@example.com")]
    assert about == [["invite_resent"], ["invite_revoked"]]
    assert about == [words[2:] for words in await lines(server, "audit", "find", ALICE)]
