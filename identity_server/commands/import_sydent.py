"""`identity-server import-sydent`."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from identity_server.commands.check_config import tell_differences
from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config
from identity_server.domain.association import Association
from identity_server.key_files import find_signing_key
from identity_server.services.associations.bind_notices import NoticeWriter
from identity_server.storage.database import Transaction
from identity_server.sydent.importing import CannotImport, Importer, Tell, check_identity
from identity_server.sydent.progress import Progress, Silent
from identity_server.sydent.reading import SydentFile, SydentFileProblem, open_sydent
from identity_server.sydent.report import ImportReport
from identity_server.wiring.desks import Storage, look_into_storage, open_storage
from identity_server.wiring.settings import key_sources, terms_in_force


@click.command("import-sydent")
@click.argument("database", metavar="DB", type=click.Path(path_type=Path, dir_okay=False, readable=False))
@conf_option
@click.option("--dry-run", is_flag=True, help="Write nothing; only say what would become of every row.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
def import_sydent(database: Path, conf: Path | None, dry_run: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Move the data of Sydent's database DB into this server's.

    DB is only read. May be run again at any time: it goes on where it was, and adds what is new.
    """
    config = set_up(conf, makes_database=True)
    with told_in_words():
        try:
            with open_sydent(database) as source, _progress() as progress:
                _check(source, config)
                report = asyncio.run(_import(source, config, progress, dry_run=dry_run))
        except (SydentFileProblem, CannotImport) as problem:
            click.echo(f"error: {problem}", err=True)
            raise SystemExit(1) from None
    if as_json:
        click.echo(jsonlib.dumps(report.to_json(), indent=2))
    else:
        _tell(report, config)


def _check(source: SydentFile, config: Config) -> None:
    own = config.db.file
    if config.db.url is None and own.exists() and own.samefile(source.path):
        raise CannotImport(
            f"db.file names {source.path} itself, which is only ever read. Set db.file to the name of a new file,"
            f" for example {own.resolve().with_name('identity.db')}, and run this again."
        )
    check_identity(source, server_name=config.general.server_name, signing_key=find_signing_key(key_sources(config)))


async def _import(source: SydentFile, config: Config, progress: Progress, *, dry_run: bool) -> ImportReport:
    terms = terms_in_force(config)
    async with (look_into_storage if dry_run else open_storage)(config) as storage:
        importer = Importer(
            source=source,
            target=storage.database,
            sealer=storage.keys.sealer,
            code_hasher=storage.code_hasher,
            clock=storage.clock,
            randomness=storage.randomness,
            server_name=config.general.server_name,
            terms=terms,
            keeps_delivered_invites=not config.general.delete_tokens_on_bind,
            visibility=config.lookup.default_visibility,
            tell=_teller(config, storage),
            dry_run=dry_run,
            progress=progress,
        )
        return await importer.run()


def _teller(config: Config, storage: Storage) -> Tell:
    signing_key = find_signing_key(key_sources(config))

    async def tell(tx: Transaction, association: Association) -> None:
        assert signing_key is not None, "opening the database has made sure that there is one"
        notices = NoticeWriter(randomness=storage.randomness, signing_key=signing_key)
        await notices.add_overdue(tx, association, now_ms=storage.clock.now_ms())

    return tell


def _tell(report: ImportReport, config: Config) -> None:
    click.echo(report.to_text())
    click.echo()
    tell_differences(config)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar where someone watches and rich is installed; else nothing."""
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield Silent()
        return
    # Loaded only now: it imports what may be missing.
    with importlib.import_module("identity_server.commands.progress_bar").progress_bar() as bar:
        yield bar
