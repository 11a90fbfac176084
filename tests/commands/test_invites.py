"""`identity-server invites`, beside a running server."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.domain.invite import INVITE_LIFETIME_MS, Invite
from identity_server.outbound.system import SystemClock
from tests.support.databases import variables_for
from tests.support.harness import Fakes, Harness, running


async def _store(server: Harness) -> None:
    alice = await server.register()
    body = {"medium": "email", "address": "carol@example.com", "room_id": "!r", "sender": alice.user_id}
    assert (await server.post("store-invite", body, as_=alice)).status == 200


async def _store_imported(server: Harness) -> None:
    """As the import writes one: the key was in the mail that Sydent sent, and nowhere else."""
    now_ms = server.clock.now_ms()
    invite = Invite(
        id=7,
        threepid=Threepid(Medium.EMAIL, "carol@example.com"),
        room_id="!r",
        sender=UserId("@alice:example.org"),
        token="token",
        private_key="",
        public_key=b"",
        details={},
        brand=None,
        languages=(),
        created_at_ms=now_ms,
        expires_at_ms=now_ms + INVITE_LIFETIME_MS,
    )
    await server.system.database.transaction(lambda tx: tx.invites.add(invite))


async def _run(folder: Path, *arguments: str) -> tuple[int | None, str]:
    environ = {
        "IDENTITY_SERVER__GENERAL__SERVER_NAME": "id.example.org",
        **variables_for(folder / "db" / "identity.db"),
        "IDENTITY_SERVER__CRYPTO__KEY_DIR": str(folder / "keys"),
    }
    command = (sys.executable, "-m", "identity_server", "invites", *arguments, "-c", str(folder / "sydent.conf"))
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_listing_resending_and_revoking(tmp_path: Path) -> None:
    fakes = Fakes()
    # The command line reads the real clock.
    fakes.clock.ms = SystemClock().now_ms()
    async with running(tmp_path, fakes=fakes) as server:
        await _store(server)
        code, listed = await _run(tmp_path, "list")
        assert code == 0
        assert "c...@exa...  by @alice:example.org  to !r  waiting" in listed
        assert "carol" not in listed
        invite_id = listed.split()[0]
        assert (await _run(tmp_path, "resend", invite_id))[0] == 0
        server.clock.ms = SystemClock().now_ms() + 120_000
        await server.system.runner.run_until_idle()
        assert [mail.template for mail in server.mail.sent] == ["invite", "invite"]
        assert (await _run(tmp_path, "revoke", invite_id))[0] == 0
        assert server.count("invites") == 0
        assert (await _run(tmp_path, "revoke", invite_id))[0] == 1
        assert "No invites are waiting." in (await _run(tmp_path, "list"))[1]


async def test_an_imported_invite_has_no_key_to_be_mailed_again(tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.clock.ms = SystemClock().now_ms()
    async with running(tmp_path, fakes=fakes) as server:
        await _store_imported(server)
        assert (await _run(tmp_path, "resend", "7"))[0] == 1
        assert server.count("jobs") == 0
        assert (await _run(tmp_path, "revoke", "7"))[0] == 0
        assert server.count("invites") == 0
