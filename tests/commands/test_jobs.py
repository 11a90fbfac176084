"""`identity-server jobs`, beside a server that couldn't deliver something."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from identity_server.__main__ import main
from identity_server.domain.ports import DeliveryPostponed
from identity_server.outbound.system import SystemClock
from tests.support.databases import variables_for
from tests.support.harness import ALICE, Fakes, running


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "identity.conf"
    path.write_text("[general]\nserver.name = id.example.org\n")
    for name, value in variables_for(tmp_path / "db" / "identity.db").items():
        monkeypatch.setenv(name, value)
    return path


async def jobs(conf: Path, *arguments: str) -> list[str]:
    """The lines that the command prints."""
    result = await asyncio.to_thread(CliRunner().invoke, main, ["jobs", *arguments, "-c", str(conf)])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


async def test_what_waits_is_shown_and_tried_when_told_so(tmp_path: Path, conf: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        fakes.clock.ms = SystemClock().now_ms()
        alice = await server.register(ALICE)
        fakes.homeservers.notices.answers.append(DeliveryPostponed("out of order"))
        await server.bound(alice, "alice@example.com")
        await server.system.runner.run_until_idle()

        _heading, row = await jobs(conf, "list")
        assert row.split()[:5] == ["bind-notice", "example.org", "1", "0", "1"]
        assert " in 0:" in row

        assert await jobs(conf, "retry") == ["Due now: 1 job."]
        fakes.clock.ms = SystemClock().now_ms()
        await server.system.runner.run_until_idle()

        assert [name for name, _ in fakes.homeservers.notices.delivered] == ["example.org"]
        assert await jobs(conf, "list") == ["Nothing waits."]
        assert await jobs(conf, "retry") == ["Due now: 0 jobs."]


async def test_what_a_dead_server_left_behind_is_tried_only_when_told_so(tmp_path: Path, conf: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        fakes.clock.ms = SystemClock().now_ms()
        job = await server.system.database.transaction(
            lambda tx: tx.jobs.add_claimed(
                1, "bind-notice", {}, now_ms=fakes.clock.ms, expires_at_ms=fakes.clock.ms + 3_600_000
            )
        )
        assert await jobs(conf, "retry") == ["Due now: 0 jobs."]
        assert await jobs(conf, "retry", "--claimed") == ["Due now: 1 job."]
        fakes.clock.ms = SystemClock().now_ms()
        (again,) = await server.system.database.transaction(lambda tx: tx.jobs.claim(now_ms=fakes.clock.ms, limit=10))
        assert again.id == job.id
