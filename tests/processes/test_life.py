"""Start and end: a start that can't succeed says why, and an end lets finish what was begun."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.e2e.processes import PATIENCE_SECONDS, ProgramFailed
from tests.processes.conftest import TOKEN, Server, is_alive, opened_by, wait_until


def ends_with(server: Server, sentence: str) -> None:
    """The server ends by itself, with status 1 and this sentence, and leaves nothing behind."""
    server.program.start()
    with pytest.raises(ProgramFailed, match="ended with 1"):
        server.program.wait_until(lambda: False)
    assert sentence in server.log
    assert "Traceback" not in server.log
    assert not (server.folder / "identity.pid").exists()


def test_taken_port_is_a_sentence(server: Server) -> None:
    with socket.create_server(("127.0.0.1", server.port)):
        ends_with(server, f"error: cannot listen on 127.0.0.1 port {server.port}: Address already in use\n")


def test_missing_key_is_a_sentence(server: Server) -> None:
    server.start(workers=1)
    assert server.stop() == 0
    (server.folder / "keys" / "root.key").unlink()
    ends_with(server, "error: the root key of this database is missing")


def test_certificate_without_its_key_is_a_sentence(server: Server) -> None:
    for name in ("chain.pem", "key.pem"):
        (server.folder / name).write_text("nothing")
    conf = server.conf.read_text()
    certificate = f"[http]\nclientapi.https.certfile = {server.folder}/chain.pem\n"
    certificate += f"clientapi.https.keyfile = {server.folder}/key.pem\n"
    server.conf.write_text(conf.replace("[http]\n", certificate))
    ends_with(server, f"error: the certificate in {server.folder}/chain.pem can't be used with its key")


@pytest.mark.parametrize("workers", [1, 2])
def test_parent_has_loaded_what_workers_run_on_if_there_are_several_to_share_it(server: Server, workers: int) -> None:
    server.start(workers=workers)
    has = {pid: "numpy" in Path(f"/proc/{pid}/maps").read_text() for pid in (server.parent, *server.workers())}
    assert has == {**dict.fromkeys(server.workers(), True), server.parent: workers > 1}


def test_parent_has_nothing_that_must_not_be_inherited(server: Server) -> None:
    server.start(workers=2)
    process = Path(f"/proc/{server.parent}")
    assert len(list((process / "task").iterdir())) == 1, "a thread doesn't outlive a fork, but its locks do"
    assert not [name for name in opened_by(server.parent) if "identity.db" in name or "index" in name]
    for worker in server.workers():
        # Its own loop's, and none of the parent's selector.
        assert opened_by(worker).count("anon_inode:[eventpoll]") == 1


def test_worker_that_has_changed_the_schema_leaves_serving_to_another(server: Server) -> None:
    def prepared() -> list[str]:
        return re.findall(r"worker\.prepared.*?pid=(\d+)", server.log)

    server.start(workers=1)
    (pid,) = prepared()
    assert "schema.upgraded" in server.log
    assert not is_alive(int(pid))
    assert len(server.ready_workers()) == 1
    assert server.stop() == 0
    server.program.start()
    server.wait_for(lambda: server.log.count("worker.ready") == 2)
    assert prepared() == [pid], "there was nothing to be changed"


def test_request_under_way_is_answered_before_the_end(server: Server) -> None:
    server.start(workers=2)
    body = b'{"algorithm": "sha256", "pepper": "p", "addresses": []}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(
            b"POST /_matrix/identity/v2/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
            b"Authorization: Bearer %s\r\n\r\n" % (len(body), TOKEN.encode())
        )
        connection.sendall(body[:10])
        wait_until(lambda: has_been_read(connection))
        server.signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log)
        connection.sendall(body[10:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")
    assert server.stop() == 0
    assert "worker.killed" not in server.log


def has_been_read(connection: socket.socket) -> bool:
    """Whether somebody has accepted the other end of a connection, and read all that was sent there."""
    ends = [f"0100007F:{port:04X}" for _, port in (connection.getpeername(), connection.getsockname())]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, _, _, _, _, inode, *_ = line.split()
        if [local, remote] == ends:
            return inode != "0" and queues.rpartition(":")[2] == "00000000"
    return False


def test_worker_that_hangs_is_killed_when_its_time_is_over(server: Server) -> None:
    server.start(workers=2)
    hanging = min(server.workers())
    os.kill(hanging, signal.SIGSTOP)
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun > 10, "it wasn't given its time"
    assert f"pid={hanging} reason=" in server.log
    assert not is_alive(hanging)


def test_worker_that_is_killed_while_it_ends_is_told_as_a_fault(server: Server) -> None:
    server.start(workers=2)
    hanging, other = sorted(server.workers())
    os.kill(hanging, signal.SIGSTOP)
    server.signal(signal.SIGTERM)
    server.wait_for(lambda: not is_alive(other))
    os.kill(hanging, signal.SIGKILL)
    assert server.program.wait() == 0
    (told,) = [line for line in server.log.splitlines() if "worker.ended" in line and f"pid={hanging}" in line]
    assert "[error" in told
    assert "reason='it was ended by SIGKILL'" in told


def test_second_signal_ends_everything_now(server: Server) -> None:
    server.start(workers=2)
    hanging = min(server.workers())
    os.kill(hanging, signal.SIGSTOP)
    server.signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in server.log)
    assert server.stop() == 0
    assert not is_alive(hanging)
    assert "worker.killed" not in server.log, "that is for those whose time is over"


def test_systemd_hears_how_things_stand(server: Server) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(server.folder / "notify"))
        systemd.settimeout(PATIENCE_SECONDS)
        server.start(workers=1)
        assert systemd.recv(1000) == b"READY=1"
        server.signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", systemd.recv(1000))
        assert systemd.recv(1000) == b"READY=1"
        assert server.stop() == 0
        assert systemd.recv(1000) == b"STOPPING=1"


async def test_workers_go_on_in_the_new_file_when_the_log_was_moved(server: Server) -> None:
    log = server.folder / "own.log"
    server.configure(workers=2, general=f"log.path = {log}")
    server.program.start()
    server.wait_for(lambda: log.exists() and log.read_text().count("worker.ready") == 2)
    log.rename(server.folder / "moved.log")
    async with ClientSession() as session, session.get(f"{server.base}/_matrix/identity/versions") as response:
        assert response.status == 200
    server.wait_for(lambda: log.exists() and "route=/_matrix/identity/versions" in log.read_text())
    # The parent follows, too, once it is told.
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: "reloaded" in log.read_text())


async def test_metrics_are_those_of_all_workers_and_outlive_them(server: Server) -> None:
    server.start(workers=2)
    counted = re.compile(r'http_request_duration_seconds_count\{method="GET",route="/health",status="200"\} (\S+)')

    async def metrics() -> str:
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        async with ClientSession() as session, session.get(url) as response:
            assert response.status == 200
            return await response.text()

    for _ in range(40):
        # A connection each, so that both workers have some.
        async with ClientSession() as session, session.get(f"{server.base}/health") as response:
            assert response.status == 200
    async with ClientSession() as session, session.get(f"{server.base}/metrics") as response:
        assert response.status == 404, "clients see no metrics"

    async def number() -> float:
        found = counted.search(await metrics())
        return 0 if found is None else float(found[1])

    async with asyncio.timeout(PATIENCE_SECONDS):
        # What another worker has counted is seen within a second or so.
        while await number() < 40:
            await asyncio.sleep(0.2)
        assert await number() == 40
        server.kill_worker()
        await asyncio.to_thread(server.wait_until_replaced, workers=2)
        assert await number() == 40
        # The log tells of a worker a moment before this does.
        while "identity_server_workers 2.0" not in await metrics():
            await asyncio.sleep(0.05)
    assert "identity_server_workers_lost_total 1.0" in await metrics()
