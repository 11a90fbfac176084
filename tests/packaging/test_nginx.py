"""nginx as contrib/ configures it, in front of the real server."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.e2e.processes import PATIENCE_SECONDS, reserve_port
from tests.processes.conftest import Server, wait_until

_REPOSITORY = Path(__file__).parents[2]
_NGINX = "/usr/sbin/nginx"
_NAME = "id.example.org"


def adapted(conf: str, changes: dict[str, str]) -> str:
    """The file as an operator changes it; whatever is to be changed must be there."""
    for old, new in changes.items():
        assert old in conf, old
        conf = conf.replace(old, new)
    return conf


@contextmanager
def nginx(folder: Path, *, upstream: int, port: int, authority: trustme.CA) -> Iterator[None]:
    certificate = authority.issue_cert(_NAME)
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    conf = adapted(
        (_REPOSITORY / "contrib/nginx/identity-server.conf").read_text(),
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",
            f"/etc/letsencrypt/live/{_NAME}/": f"{folder}/",
            "/var/log/nginx/": f"{folder}/",
            "127.0.0.1:8090": f"127.0.0.1:{upstream}",
        },
    )
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    # Started by root, it would work as somebody who may not look into this folder.
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.getuid() == 0 else ""
    main.write_text(f"{user}daemon off;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n{temporary}{conf}\n}}\n")
    with (folder / "nginx.out").open("wb") as out:
        process = subprocess.Popen(
            [_NGINX, "-c", main, "-e", folder / "nginx-errors", "-p", folder], stdout=out, stderr=out
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    try:
        server.start(workers=1, http="trusted_proxies = 127.0.0.1")
        yield server
    finally:
        server.program.kill()


@pytest.fixture
async def proxied(server: Server, tmp_path: Path) -> AsyncIterator[ClientSession]:
    """A client of the proxy in front of the server; the proxy's files are in `nginx` below the test's folder."""
    authority, port, folder = trustme.CA(), reserve_port(), tmp_path / "nginx"
    folder.mkdir()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with nginx(folder, upstream=server.port, port=port, authority=authority):
        wait_until((folder / "nginx.pid").exists)
        # From where no trusted proxy is.
        connector = TCPConnector(ssl=context, resolver=_Loopback(), local_addr=("127.0.0.2", 0))
        async with ClientSession(f"https://{_NAME}:{port}/", connector=connector) as session:
            yield session


class _Loopback(AbstractResolver):
    """The only name server that knows id.example.org."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        assert host == _NAME
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_everything_passes_through_and_no_query_is_logged(
    proxied: ClientSession, server: Server, tmp_path: Path
) -> None:
    ping = await proxied.get("_matrix/identity/v2")
    assert (ping.status, await ping.json()) == (200, {})
    assert ping.headers.getall("Access-Control-Allow-Origin") == ["*"]
    refused = await proxied.get("_matrix/identity/v2/account?access_token=canary-in-a-query")
    assert (refused.status, (await refused.json())["errcode"]) == (401, "M_UNAUTHORIZED")
    largest = {"addresses": ["x" * 43] * 10_000, "algorithm": "sha256", "pepper": "x"}
    large = await proxied.post("_matrix/identity/v2/lookup", json=largest)
    assert (large.status, (await large.json())["errcode"]) == (401, "M_UNAUTHORIZED")
    assert (await proxied.get("ready")).status == 404

    folder = tmp_path / "nginx"
    wait_until(lambda: "GET /ready 404" in (folder / "identity.log").read_text())
    assert "GET /_matrix/identity/v2/account 401" in (folder / "identity.log").read_text()
    logs = [each.read_text() for each in folder.iterdir() if each.is_file()]
    assert "canary" not in "".join(logs) + server.log


async def test_limits_count_the_client_whatever_it_claims(proxied: ClientSession) -> None:
    """30 registrations are let through from one network, and more as the minute goes on."""
    begun, statuses = time.monotonic(), list[int]()
    while 429 not in statuses and len(statuses) < 250:
        claimed = {"X-Forwarded-For": f"203.0.{len(statuses)}.1"}
        credentials = {"matrix_server_name": "127.0.0.1:1", "access_token": "x"}
        answer = await proxied.post("_matrix/identity/v2/account/register", json=credentials, headers=claimed)
        statuses.append(answer.status)
    come_back = (time.monotonic() - begun) / 2
    assert 30 <= statuses.index(429) <= 30 + come_back
    assert 200 not in statuses
