"""The world in two databases: Sydent's, filled behind its back, and ours, imported from it as an operator would.

The rule: each schema is made by its own server; of ours, every row is written by the product's own import. Made once
for each size and shape, and kept; runs work on copies.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import world
from identity_server.config import load
from identity_server.domain.signing import SigningKey
from identity_server.services.sweeping import in_batches
from identity_server.wiring.desks import open_storage

REPOSITORY = Path(__file__).parents[1]
SYDENT_PYTHON = REPOSITORY / ".venv-sydent" / "bin" / "python"
_DATA = Path(__file__).with_name(".data")
_FILL_SYDENT = REPOSITORY / "tests" / "sydent" / "fill_sydent.py"
_TABLE = "global_threepid_associations"
_HASH_INDEX = "global_threepid_lookup_hash"
_BATCH = 20_000
_LONGEST_SECONDS = 1200

# What Sydent asks for at every lookup, joined with a temporary table of the hashes.
_SYDENTS_TABLE = "CREATE TEMPORARY TABLE tmp_retrieve_mxids_for_hashes (lookup_hash VARCHAR)"
_SYDENTS_INDEX = (
    "CREATE INDEX tmp_retrieve_mxids_for_hashes_lookup_hash ON tmp_retrieve_mxids_for_hashes(lookup_hash)"
)
_SYDENTS_QUERY = (
    f"SELECT gta.lookup_hash, gta.mxid FROM {_TABLE} gta JOIN tmp_retrieve_mxids_for_hashes"
    " ON gta.lookup_hash = tmp_retrieve_mxids_for_hashes.lookup_hash"
    " WHERE gta.notBefore < 1 AND gta.notAfter > 1 ORDER BY gta.lookup_hash, gta.mxid, gta.ts"
)


class CannotPrepare(Exception):
    """The data can't be made; the text says why."""


def prepared(associations: int, *, root: Path = _DATA) -> Path:
    """The folder of a world of this size: `sydent.db`, `identity.db`, `keys/`. Made below `root` if it isn't there.

    Raises:
        CannotPrepare: a program that makes it failed.
    """
    shape = root / f"world-{world.VERSION}-schema-{_newest_migration()}"
    folder = shape / str(associations)
    if (folder / "complete").exists():
        return folder
    for outdated in root.glob("world-*"):
        if outdated != shape:
            shutil.rmtree(outdated)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _make_sydents(folder, associations)
    _import_ours(folder)
    (folder / "complete").touch()
    return folder


def _newest_migration() -> str:
    """A server that finds an older schema would upgrade it first, and that would be measured as its start."""
    return max(path.stem.partition("_")[0] for path in (REPOSITORY / "migrations" / "versions").glob("[0-9]*.py"))


def help_planner(database: Path) -> None:
    """Let SQLite use the index of hashes for Sydent's lookups, by a row of statistics; checked by its plan.

    With no statistics it scans that whole index at every lookup. With true ones (a million rows, one per hash) it
    uses the index, but first builds a Bloom filter, by scanning the table. Only a table that looks immense gets
    the plan that one would write by hand.

    Raises:
        CannotPrepare: the planner isn't impressed.
    """
    with sqlite3.connect(database) as connection:
        connection.execute("ANALYZE sqlite_master")
        connection.execute("DELETE FROM sqlite_stat1")
        connection.execute("INSERT INTO sqlite_stat1 VALUES (?, ?, '100000000 1')", (_TABLE, _HASH_INDEX))
    plan = lookup_plan(database)
    if any("BLOOM" in step or "SCAN gta" in step for step in plan):
        raise CannotPrepare(f"SQLite still scans for Sydent's lookups: {plan}")


def lookup_plan(database: Path) -> list[str]:
    """How SQLite carries out Sydent's lookups in this database."""
    with sqlite3.connect(database) as connection:
        connection.execute(_SYDENTS_TABLE)
        connection.execute(_SYDENTS_INDEX)
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {_SYDENTS_QUERY}")]


# --- Sydent's ---------------------------------------------------------------------------------


def _make_sydents(folder: Path, associations: int) -> None:
    conf = folder / "sydent.conf"
    (folder / "res" / "matrix-org").mkdir(parents=True)
    conf.write_text(_conf(folder, folder / "sydent.db"))
    _run(
        [str(SYDENT_PYTHON), str(_FILL_SYDENT)],
        folder,
        {"SYDENT_CONF": str(conf)},
        text=json.dumps([]),
    )
    with sqlite3.connect(folder / "sydent.db") as connection:
        connection.execute("PRAGMA synchronous = OFF")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name LIKE '%_threepid_associations'"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("UPDATE hashing_metadata SET lookup_pepper = ?", (world.PEPPER,))
        _insert(
            connection,
            "local_threepid_associations (id, medium, address, mxid, ts, notBefore, notAfter, lookup_hash)",
            _local_rows(associations),
        )
        _insert(
            connection,
            f"{_TABLE} (id, medium, address, mxid, ts, notBefore, notAfter, originServer, originId, sgAssoc, lookup_hash)",
            _global_rows(associations),
        )
        for _, sql in indexes:
            connection.execute(sql)
        people = [world.account(number) for number in range(world.ACCOUNTS + world.NEWCOMERS)]
        _insert(
            connection,
            "accounts (user_id, created_ts, consent_version)",
            ((each.user_id, world.BOUND_AT_MS, world.MASTER_VERSION) for each in people),
        )
        _insert(connection, "tokens (token, user_id)", ((each.token, each.user_id) for each in people))
        _insert(
            connection,
            "accepted_terms_urls (user_id, url)",
            ((each.user_id, world.TERMS_URL) for each in people),
        )


def _insert(connection: sqlite3.Connection, target: str, rows: Iterator[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * (target.count(",") + 1))
    connection.executemany(f"INSERT INTO {target} VALUES ({marks})", rows)
    connection.commit()


def _local_rows(associations: int) -> Iterator[tuple[object, ...]]:
    until = world.BOUND_AT_MS + world.LIFETIME_MS
    for number in range(associations):
        address, ts = world.bound(number), world.BOUND_AT_MS + number
        hashed = address.hashed(world.PEPPER)
        yield number + 1, address.medium, address.text, world.owner(number), ts, ts, until, hashed


def _global_rows(associations: int) -> Iterator[tuple[object, ...]]:
    """The newest is signed, which the import looks at; the others carry as many bytes, which no lookup reads."""
    key = SigningKey.parse(world.SIGNING_KEY, server_name=world.SERVER_NAME)
    until = world.BOUND_AT_MS + world.LIFETIME_MS
    signatures = {world.SERVER_NAME: {key.key_id: "A" * 86}}
    for number in range(associations):
        address, ts, mxid = world.bound(number), world.BOUND_AT_MS + number, world.owner(number)
        said = {
            "medium": address.medium,
            "address": address.text,
            "mxid": mxid,
            "ts": ts,
            "not_before": ts,
            "not_after": until,
        }
        signed = key.sign(said) if number == associations - 1 else {**said, "signatures": signatures}
        hashed = address.hashed(world.PEPPER)
        yield (
            *(number + 1, address.medium, address.text, mxid, ts, ts, until),
            *(world.SERVER_NAME, number + 1, json.dumps(signed), hashed),
        )


# --- ours -------------------------------------------------------------------------------------


def _import_ours(folder: Path) -> None:
    conf = folder / "identity.conf"
    conf.write_text(_conf(folder, folder / "identity.db"))
    answer = _run(
        [
            sys.executable,
            "-m",
            "identity_server",
            "import-sydent",
            str(folder / "sydent.db"),
            "--json",
            "-c",
            str(conf),
        ],
        folder,
        {"PYTHONPATH": str(REPOSITORY)},
    )
    report = json.loads(answer)["tables"]["local_threepid_associations"]
    if report["moved"] != report["read"]:
        raise CannotPrepare(f"the import left bindings behind: {report}")
    asyncio.run(_age(conf))


async def _age(conf: Path) -> None:
    """Let it be as it is an hour later: the feed of changes that the import wrote is trimmed."""
    async with open_storage(load(conf, environ={})) as storage:
        later_ms = storage.clock.now_ms() + 1
        await in_batches(
            storage.database, lambda tx, limit: tx.associations.trim_changes(before_ms=later_ms, limit=limit)
        )


def _conf(folder: Path, database: Path) -> str:
    """Just enough to make the data with; the servers are configured in `servers.py`."""
    (folder / "terms.yaml").write_text(world.TERMS)
    return f"""[general]
server.name = {world.SERVER_NAME}
templates.path = {folder}/res
terms.path = {folder}/terms.yaml
pidfile.path =
[db]
db.file = {database}
[crypto]
key_dir = {folder}/keys
ed25519.signingkey = {world.SIGNING_KEY}
"""


def _run(command: list[str], folder: Path, env: dict[str, str], *, text: str = "") -> str:
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise CannotPrepare(f"{command[-1]} failed:\n{done.stderr[-3000:]}")
    return done.stdout
