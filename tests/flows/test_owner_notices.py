"""The owner of an address hears of every binding made or removed, where that is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity_server.domain.ports import DeliveryRefused
from tests.support.harness import SECRET, Harness, User, running
from tests.support.homeserver import UNBIND

EMAIL = "alice@example.com"


@pytest.fixture
async def telling(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path, settings={"EMAIL__EMAIL_NOTICES": "true"}) as harness:
        yield harness


async def unbind(server: Harness, user: User, sid: str) -> None:
    threepid = {"medium": "email", "address": EMAIL}
    body = {"sid": sid, "client_secret": SECRET, "mxid": user.user_id, "threepid": threepid}
    assert (await server.post("3pid/unbind", body)).status == 200
    await server.system.runner.run_until_idle()


async def test_owner_is_told(telling: Harness) -> None:
    alice = await telling.register()
    sid = await telling.bound(alice, EMAIL)
    await telling.system.runner.run_until_idle()
    await unbind(telling, alice, sid)
    await unbind(telling, alice, sid)
    assert [mail.template for mail in telling.mail.sent] == ["verification", "bound", "unbound"], "once each"
    for mail in telling.mail.sent[1:]:
        assert mail.to == EMAIL
        assert mail.variables == {"address": EMAIL, "user_id": alice.user_id}


async def test_owner_is_told_whoever_removes_the_binding(telling: Harness) -> None:
    alice = await telling.register()
    body = {"mxid": alice.user_id, "threepid": {"medium": "email", "address": EMAIL}}

    async def homeserver() -> None:
        authorization = telling.homeservers.add_signing("example.org").authorization(body)
        reply = await telling.post(UNBIND, body, headers={"Authorization": authorization})
        assert reply.status == 200, reply.json

    async def operator() -> None:
        async with telling.internally() as inside:
            binding = {"mxid": alice.user_id, "medium": "email", "address": EMAIL}
            assert (await inside.post("/_matrix/identity/internal/unbind", binding)).status == 200

    for number, remove in enumerate((homeserver, operator), start=1):
        await telling.bound(alice, EMAIL, secret=f"secret{number}")
        await remove()
        await telling.system.runner.run_until_idle()
        assert [mail.template for mail in telling.mail.sent].count("unbound") == number
        assert telling.mail.sent[-1].variables == {"address": EMAIL, "user_id": alice.user_id}


async def test_refused_notice_does_not_touch_the_binding(telling: Harness) -> None:
    alice = await telling.register()
    sid = await telling.validated(alice, EMAIL)
    telling.mail.answers.append(DeliveryRefused("RCPT: 550"))
    assert (await telling.bind(alice, sid)).status == 200
    await telling.system.runner.run_until_idle()
    assert await telling.find(alice, EMAIL) == alice.user_id


async def test_operator_may_switch_it_off(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    await server.system.runner.run_until_idle()
    assert [mail.template for mail in server.mail.sent] == ["verification"]


async def test_brand_of_sydent_sends_no_mail_that_sydent_did_not_send(tmp_path: Path) -> None:
    brand = tmp_path / "res" / "matrix-org"
    brand.mkdir(parents=True)
    headers = "To: {{ to|safe }}\nFrom: {{ from|safe }}\nSubject: x\nContent-Type: text/plain\n\n"
    (brand / "verification_template.eml.j2").write_text(headers + "{{ link }}\n")
    settings = {"EMAIL__EMAIL_NOTICES": "true", "GENERAL__TEMPLATES_PATH": str(brand.parent)}
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
        await server.system.runner.run_until_idle()
        assert [mail.template for mail in server.mail.sent] == ["verification"]


async def test_same_owner_again_is_no_news(telling: Harness) -> None:
    alice = await telling.register()
    await telling.bound(alice, EMAIL)
    await telling.bound(alice, EMAIL, secret="again")
    await telling.system.runner.run_until_idle()
    assert [mail.template for mail in telling.mail.sent].count("bound") == 1


async def test_account_binds_twenty_times_and_then_once_a_minute(server: Harness, alice: User) -> None:
    sid = await server.validated(alice, EMAIL)
    replies = [await server.bind(alice, sid) for _ in range(21)]
    assert [reply.status for reply in replies] == [200] * 20 + [429]
    assert replies[-1].errcode == "M_LIMIT_EXCEEDED"
    server.clock.advance(minutes=1)
    assert (await server.bind(alice, sid)).status == 200
