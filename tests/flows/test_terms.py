"""Terms: nothing works until they are accepted, and accepting them is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.harness import Harness, User, running

BASE = "https://id.example.org/_matrix/identity/terms"


def write_policy(directory: Path, *, version: str = "1", language: str = "en", name: str = "privacy") -> None:
    directory.mkdir(exist_ok=True)
    front = f"---\nid: {name}\nversion: '{version}'\nlanguage: {language}\ntitle: Privacy ({language})\n---\n"
    (directory / f"{name}.{language}.md").write_text(front + "# What we keep\n\nVery *little*.\n")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    directory = tmp_path / "terms"
    for language in ("en", "fr"):
        write_policy(directory, language=language)
    return directory


def settings(path: Path) -> dict[str, str]:
    return {"GENERAL__TERMS_PATH": str(path)}


async def accepted(server: Harness, user: User, *urls: str) -> int:
    return (await server.post("terms", {"user_accepts": list(urls)}, as_=user)).status


async def may_use(server: Harness, user: User) -> bool:
    reply = await server.get("account", as_=user)
    assert reply.status == 200 or (reply.status, reply.errcode) == (403, "M_TERMS_NOT_SIGNED")
    return reply.status == 200


async def test_one_language_of_every_policy_is_enough(tmp_path: Path, policies: Path) -> None:
    write_policy(policies, name="conduct")
    async with running(tmp_path, settings=settings(policies)) as server:
        alice = await server.register()
        offered = (await server.get("terms")).json["policies"]
        assert offered["privacy"] == {
            "version": "1",
            "en": {"name": "Privacy (en)", "url": f"{BASE}/privacy/1/en"},
            "fr": {"name": "Privacy (fr)", "url": f"{BASE}/privacy/1/fr"},
        }
        assert not await may_use(server, alice)
        assert await accepted(server, alice, f"{BASE}/privacy/1/fr") == 200
        assert not await may_use(server, alice), "the other policy is still owed"
        assert await accepted(server, alice, f"{BASE}/conduct/1/en") == 200
        assert await may_use(server, alice)
        rows = server.rows("SELECT policy_id, version, language, url, accepted_at_ms FROM accepted_terms")
        assert sorted(rows) == [
            ("conduct", "1", "en", f"{BASE}/conduct/1/en", server.clock.ms),
            ("privacy", "1", "fr", f"{BASE}/privacy/1/fr", server.clock.ms),
        ]


async def test_agreement_outlives_registering_again_and_a_restart(tmp_path: Path, policies: Path) -> None:
    async with running(tmp_path, settings=settings(policies)) as server:
        alice = await server.register()
        await accepted(server, alice, f"{BASE}/privacy/1/en")
        assert await may_use(server, await server.register())
    async with running(tmp_path, settings=settings(policies)) as server:
        assert await may_use(server, alice)


async def test_new_version_asks_again_without_a_restart(tmp_path: Path, policies: Path) -> None:
    async with running(tmp_path, settings=settings(policies)) as server:
        alice = await server.register()
        await accepted(server, alice, f"{BASE}/privacy/1/en")
        for language in ("en", "fr"):
            write_policy(policies, version="2", language=language)
        await server.system.services.terms.reload()
        assert not await may_use(server, alice)
        assert await accepted(server, alice, f"{BASE}/privacy/1/en") == 400, "no longer in force"
        assert await accepted(server, alice, f"{BASE}/privacy/2/en") == 200
        assert await may_use(server, alice)


async def test_broken_files_leave_the_terms_in_force(tmp_path: Path, policies: Path) -> None:
    async with running(tmp_path, settings=settings(policies)) as server:
        (policies / "privacy.en.md").write_text("no front matter")
        await server.system.services.terms.reload()
        assert "en" in (await server.get("terms")).json["policies"]["privacy"]


async def test_unknown_url_records_nothing(tmp_path: Path, policies: Path) -> None:
    async with running(tmp_path, settings=settings(policies)) as server:
        alice = await server.register()
        reply = await server.post(
            "terms", {"user_accepts": [f"{BASE}/privacy/1/en", "https://x.example/"]}, as_=alice
        )
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
        assert server.count("accepted_terms") == 0


async def test_owing_terms_one_may_accept_and_log_out(tmp_path: Path, policies: Path) -> None:
    async with running(tmp_path, settings=settings(policies)) as server:
        alice = await server.register()
        assert (await server.post("account/logout", as_=alice)).status == 200


async def test_policy_is_a_page(tmp_path: Path, policies: Path) -> None:
    async with running(tmp_path, settings=settings(policies)) as server:
        page = await server.get("/_matrix/identity/terms/privacy/1/fr")
        assert page.status == 200
        assert b"Very <em>little</em>" in page.body
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert (await server.get("/_matrix/identity/terms/privacy/9/fr")).status == 404


SYDENT_TERMS = """
master_version: "{master}"
docs:
  privacy:
    version: "1.2"
    langs:
      en: {{name: Privacy, url: "https://example.org/privacy-en.html"}}
      fr: {{name: Vie privée, url: "https://example.org/privacy-fr.html"}}
"""


async def test_sydent_terms_gate_on_their_master_version(tmp_path: Path) -> None:
    file = tmp_path / "terms.yaml"
    file.write_text(SYDENT_TERMS.format(master="1"))
    async with running(tmp_path, settings=settings(file)) as server:
        alice = await server.register()
        assert (await server.get("terms")).json["policies"]["privacy"]["version"] == "1.2"
        assert not await may_use(server, alice)
        assert await accepted(server, alice, "https://example.org/privacy-fr.html") == 200
        assert await may_use(server, alice)
        file.write_text(SYDENT_TERMS.format(master="2"))
        await server.system.services.terms.reload()
        assert not await may_use(server, alice)
        assert await accepted(server, alice) == 200
        assert await may_use(server, alice), "earlier agreements to the same documents count"


async def test_without_terms_nothing_is_asked(server: Harness, alice: User) -> None:
    assert (await server.get("terms")).json == {"policies": {}}
    assert await may_use(server, alice)
