"""The database, its schema, the keys that belong to it, and the places where all that lies."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from identity_server.doctor.findings import Finding, fault, fine, note, warning
from identity_server.doctor.patient import Patient
from identity_server.key_files import KeyProblem, KeySources, load_keys
from identity_server.storage.engines.opening import CannotWrite
from identity_server.storage.schema.upgrade import Schema, SchemaProblem, SchemaStatus
from identity_server.storage.sealing.key_ring import RootKey
from identity_server.storage.sealing.server_keys import FORMER_ROOT, NEXT_ROOT, KeyState, read_key_state
from identity_server.wiring.settings import key_sources
from identity_server.wiring.storage import engine_for

_DATABASE, _KEYS, _DISK = "database", "keys", "disk"
_OTHERS_MAY = 0o077
_LITTLE_SPACE = 1 << 30
_GIB = 1 << 30


async def examine_data(patient: Patient) -> list[Finding]:
    """The database and its keys, without making either."""
    config = patient.config
    findings = _places(patient)
    file = None if config.db.url else config.db.file
    if file is not None and not (file.exists() and file.stat().st_size):
        return [
            *findings,
            note(_DATABASE, f"{file.resolve()} isn't there yet: the first start makes it, and two keys"),
        ]
    engine = None
    state = KeyState()
    try:
        engine = engine_for(config)
        status = await Schema(engine, conf=config.path).status()
        findings.append(_schema(patient, status))
        if status.current is not None:
            state = await read_key_state(engine, has_retired=status.up_to_date)
    except (SchemaProblem, CannotWrite) as error:
        fix = "" if file is not None else "look at `db.url`, `db.password`, and at what PostgreSQL's log says"
        return [*findings, fault(_DATABASE, str(error), fix=fix)]
    finally:
        if engine is not None:
            await engine.dispose()
    return [*findings, *await asyncio.to_thread(_examine_keys, patient, state)]


def _schema(patient: Patient, status: SchemaStatus) -> Finding:
    where = "PostgreSQL" if patient.config.db.url else str(patient.config.db.file.resolve())
    if status.current is None:
        return note(_DATABASE, f"{where} is empty: the first start fills it")
    if not status.known:
        return fault(
            _DATABASE,
            f"{where} has schema {status.current}, which this version doesn't know",
            cause="a newer version of the server has been at work on it",
            fix="install that version, or restore the copy that was made before the upgrade",
        )
    if status.up_to_date:
        return fine(_DATABASE, f"{where}, schema {status.current}")
    if patient.config.db.url and not patient.config.db.auto_upgrade:
        return fault(
            _DATABASE,
            f"{where} has schema {status.current}, and {status.expected} is expected",
            cause="an older version of the server was the last to work on it",
            fix="run `identity-server db upgrade`",
        )
    return note(_DATABASE, f"{where} has schema {status.current}; the next start brings it to {status.expected}")


def _examine_keys(patient: Patient, state: KeyState) -> list[Finding]:
    sources = key_sources(patient.config)
    if not state.known:
        return [note(_KEYS, f"the first start makes them in {sources.directory.resolve()}: copy them then")]
    try:
        load_keys(sources, state, randomness=patient.randomness)
    except KeyProblem as error:
        return [
            fault(
                _KEYS,
                str(error),
                cause="without the right keys nothing in the database can be read, so the server won't start",
                fix=f"put your copy to {sources.directory.resolve()}, with mode 0600",
            )
        ]
    findings = [fine(_KEYS, "both belong to this database"), *_rotation(sources, state)]
    findings += [
        fault(
            _KEYS,
            f"{path} can be read by others on this machine (mode {path.stat().st_mode & 0o777:04o})",
            cause="whoever reads the root key can read every address in a copy of the database",
            fix=f"chmod {'700' if path.is_dir() else '600'} {path}",
        )
        for path in _secrets(sources)
        if path.stat().st_mode & _OTHERS_MAY
    ]
    file = None if patient.config.db.url else patient.config.db.file
    if file is not None and any(_same_volume(file, each) for each in sources.root_files if each.exists()):
        findings.append(
            warning(
                _KEYS,
                "the root key and the database lie on one volume",
                cause="whoever takes the disk, or a copy of the whole volume, has both, and so every address",
                fix="give `key_dir` a volume of its own, `at_rest_key` a secret store, or set `at_rest_passphrase`",
            )
        )
    return findings


def _rotation(sources: KeySources, state: KeyState) -> Iterable[Finding]:
    """Whether one root key is taking another's place, and what has been left lying about since."""
    go_on = "run `identity-server keys rotate-root`: it goes on where it was left"
    if FORMER_ROOT in state.known:
        yield warning(
            _KEYS,
            f"the root key is being replaced: the former one, {state.known[FORMER_ROOT].fingerprint[:8]}, is still needed",
            cause="`keys rotate-root` is at work just now, or didn't come to its end",
            fix=go_on,
        )
    elif NEXT_ROOT in state.known:
        yield warning(
            _KEYS,
            f"the next root key, {state.known[NEXT_ROOT].fingerprint[:8]}, waits for every server to know it",
            cause="`keys rotate-root` is at work just now, or didn't come to its end",
            fix=f"{go_on}; with `--cancel` it is given up",
        )
    retired = {each.id for each in state.retired}
    for file in (each for each in sources.root_files if each.exists()):
        with suppress(ValueError, OSError):
            if RootKey.parse(file.read_text("ascii")).key_id in retired:
                yield note(
                    _KEYS,
                    f"{file} is a root key that has been replaced: it opens older backups and nothing else. Keep it where"
                    " it is as safe as they are, apart from them, for as long as they are kept",
                )


def _secrets(sources: KeySources) -> Iterable[Path]:
    return (each for each in (sources.directory, *sources.root_files, sources.signing_file) if each.exists())


def _same_volume(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _places(patient: Patient) -> list[Finding]:
    config = patient.config
    folders = {config.index_folder: "the lookup index"}
    if config.db.url is None:
        folders[config.db.file.parent] = "the database"
    findings = []
    for folder, title in folders.items():
        nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            findings.append(
                fault(
                    _DISK,
                    f"{folder.absolute()} ({title}) can't be written by this user",
                    fix="give it to the user that the server runs as, and run the doctor as that user",
                )
            )
        elif (free := shutil.disk_usage(nearest).free) < _LITTLE_SPACE:
            findings.append(
                warning(_DISK, f"{free / _GIB:.1f} GiB are free for {title}", fix="make room before it runs out")
            )
    return findings or [fine(_DISK, "there is room, and it can be written")]
