"""What a thief of the database or the log finds: no address, and nothing that still works."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest

from identity_server.domain.ports import DeliveryPostponed
from identity_server.observability import redact_text, set_up_logging
from tests.support.databases import read_everything
from tests.support.harness import SECRET, Harness, running

EMAIL = "alice.in.wonderland@example.com"
NEXT_LINK = "https://app.example.com/done?whose=alice"


def forms(secret: str) -> set[bytes]:
    """How a value may stand somewhere without being hidden."""
    raw = secret.encode()
    encoded = {base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"=")}
    return {raw, raw.hex().encode(), raw.upper(), quote(secret, safe="").encode(), raw[::-1], *encoded}


def everything_in(database: Path) -> bytes:
    """The files of a database as they are, where it has its own, and what its rows hold."""
    files = b"".join(file.read_bytes() for file in sorted(database.parent.glob(database.name + "*")))
    values = [value for row in read_everything(database) for value in row]
    return files + b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


async def whole_flow(server: Harness) -> list[str]:
    """Use everything once; returns what must not be found afterwards."""
    alice = await server.register()
    sid = await server.bound(alice, EMAIL)
    pending_mail = DeliveryPostponed("connect: refused")
    server.mail.answers.append(pending_mail)
    await server.request_token(alice, "pending." + EMAIL, secret="pending-secret", next_link=NEXT_LINK)
    await server.find(alice, EMAIL)
    tokens = [mail.variables["token"] for mail in server.mail.sent]
    assert sid
    return [EMAIL, alice.token, *tokens, SECRET, "pending-secret", "pending." + EMAIL, NEXT_LINK]


async def test_nothing_readable_in_the_database(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        hidden = await whole_flow(server)
        live = everything_in(server.config.db.file)
    closed = everything_in(server.config.db.file)
    assert b"@alice:example.org" in live, "the search finds what is there"
    for secret in hidden:
        for form in forms(secret):
            assert form not in live
            assert form not in closed


async def test_nothing_readable_in_the_log_at_debug(tmp_path: Path) -> None:
    log = tmp_path / "log"
    set_up_logging(level="DEBUG", form="json", path=log)
    async with running(tmp_path) as server:
        hidden = await whole_flow(server)
    written = log.read_bytes()
    assert b"account/register" in written, "the log is the one that was searched"
    for secret in hidden:
        for form in forms(secret):
            assert form not in written


@pytest.mark.sqlite(reason="it reads the file")
async def test_unbinding_leaves_no_trace_of_the_sealed_address(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        sid = await server.bound(alice, EMAIL)
        sealed: bytes = server.rows("SELECT sealed_address FROM associations")[0][0]
        body = {
            "sid": sid,
            "client_secret": SECRET,
            "mxid": alice.user_id,
            "threepid": {"medium": "email", "address": EMAIL},
        }
        assert (await server.post("3pid/unbind", body)).status == 200
    assert sealed not in server.config.db.file.read_bytes()


def test_redaction_is_a_net_below_the_rule() -> None:
    text = "550 <alice@example.com> for @alice:example.org token " + "x" * 43
    assert redact_text(text) == "550 <<address>> for @alice:example.org token <redacted>"
    assert redact_text("/_matrix/identity/v2/account/register") == "/_matrix/identity/v2/account/register"
