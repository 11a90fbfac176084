"""`identity-server keys`, beside a server, at every step on the way from one root key to the next."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from identity_server.__main__ import main
from tests.flows.test_root_key import new_file, root_key
from tests.support.databases import variables_for
from tests.support.harness import running
from tests.support.rotation import LEASE_SECONDS, interrupted, rotate


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "identity.conf"
    path.write_text("[general]\nserver.name = id.example.org\n")
    for name, value in variables_for(tmp_path / "db" / "identity.db").items():
        monkeypatch.setenv(name, value)
    return path


async def keys(conf: Path, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["keys", *arguments, "-c", str(conf)])


async def test_status_tells_what_is_sealed_by_which_key(tmp_path: Path, conf: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        await server.bound(await server.register(), "alice@example.com")
        first = root_key(tmp_path / "keys" / "root.key").key_id
        assert (await keys(conf, "status")).stdout.endswith(f"Sealed by root key {first}.\n")

        await interrupted(server.config, after="The next root key is")
        second = root_key(new_file(tmp_path)).key_id
        shown = (await keys(conf, "status")).stdout
        assert shown.endswith(f"Sealed by root key {first}.\nNext: {second}, as soon as every server knows it.\n")

        await interrupted(server.config, after="New data is sealed")
        shown = (await keys(conf, "status")).stdout
        assert f"Sealed by root key {second}.\nFormer: {first}, still needed. Rows left" in shown
        assert "associations 1" in shown

        await rotate(server)
        shown = (await keys(conf, "status")).stdout
        assert f"Sealed by root key {second}.\nReplaced: {first}, 2" in shown


async def test_next_key_is_given_up_on_request(tmp_path: Path, conf: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        refused = await keys(conf, "rotate-root", "--cancel")
        assert refused.exit_code == 1
        assert "error: the root key is not being replaced\n" in refused.stderr
        await interrupted(server.config, after="The next root key is")
        assert server.rows("SELECT count(*) FROM server_keys") == [(3,)]
        given_up = await keys(conf, "rotate-root", "--cancel")
        assert given_up.exit_code == 0
        assert "given up" in given_up.stdout
        assert server.rows("SELECT count(*) FROM server_keys") == [(2,)]
