"""`identity-server account export`: what is held about a Matrix ID, for whoever it belongs to."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from identity_server.commands.context import conf_option, set_up, told_in_words
from identity_server.config import Config
from identity_server.domain.account_holdings import AccountHoldings
from identity_server.domain.errors import IdentityServerError
from identity_server.domain.identifiers import UserId, parse_user_id
from identity_server.rendering.page import Page, Reader
from identity_server.rendering.pages import Pages
from identity_server.services.privacy.desk import NothingHeld
from identity_server.wiring.desks import open_account_desk
from identity_server.wiring.settings import load_templates, terms_in_force

_ONLY_OURS = 0o600
_UNUSUAL = re.compile(r"[^A-Za-z0-9._=-]")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@conf_option
@click.argument("user_id", metavar="@USER:SERVER", type=str)
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write both files here, named after the Matrix ID.",
)
@click.option("--json", "json_file", metavar="FILE", type=_FILE, help="Write what programs read here.")
@click.option("--html", "html_file", metavar="FILE", type=_FILE, help="Write what people read here.")
@click.option("--language", help="Of what people read: en, fr, de or es. Default: the server's.")
def export(
    conf: Path | None,
    user_id: str,
    folder: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    language: str | None,
) -> None:
    """Write everything that is held about a Matrix ID to files, to be handed to whoever it belongs to.

    Account, sign-ins, accepted terms, addresses, confirmations, invitations sent and received, entries of the journal.
    Make sure that you hand it to nobody else. The journal gets an entry. The files can be read by nobody but you, and
    must not exist yet.
    """
    try:
        whom = parse_user_id(user_id)
    except IdentityServerError:
        raise click.BadParameter("this is no Matrix ID", param_hint="@USER:SERVER") from None
    if folder is not None:
        name = _UNUSUAL.sub("_", whom.removeprefix("@"))
        json_file, html_file = json_file or folder / f"{name}.json", html_file or folder / f"{name}.html"
    files = {"json": json_file, "html": html_file}
    wanted = {form: file for form, file in files.items() if file is not None}
    if not wanted:
        raise click.UsageError("Say where to: --to DIR, --json FILE, --html FILE.")
    config = set_up(conf)
    pages = Pages(load_templates(config))
    if language is not None and not pages.has_language(language):
        raise click.BadParameter("there is no such language", param_hint="--language")
    with _new_files(wanted.values()):
        held = _export(config, whom)
        made = _pages(config, pages, held, Reader(lang=language))
        for form, file in wanted.items():
            file.write_text(made[form].html, encoding="utf-8")
    for file in wanted.values():
        click.echo(f"Written: {file}")


def _export(config: Config, whom: UserId) -> AccountHoldings:
    async def work() -> AccountHoldings:
        async with open_account_desk(config) as desk:
            return await desk.export(whom)

    try:
        with told_in_words():
            return asyncio.run(work())
    except NothingHeld:
        raise click.ClickException(f"nothing is held about {whom}") from None


def _pages(config: Config, pages: Pages, held: AccountHoldings, reader: Reader) -> Mapping[str, Page]:
    terms = terms_in_force(config)
    return {
        "json": pages.account.data(held, terms=terms),
        "html": pages.account.document(reader, held=held, terms=terms),
    }


@contextmanager
def _new_files(files: Collection[Path]) -> Iterator[None]:
    """Make files that are empty and can be read by nobody else, before anything is done; on failure none is left.

    Raises:
        ClickException: one of them can't be made, or exists.
    """
    made: list[Path] = []
    try:
        for file in files:
            _make(file)
            made.append(file)
        yield
    except BaseException:
        for file in made:
            file.unlink(missing_ok=True)
        raise


def _make(file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _ONLY_OURS))
    except OSError as error:
        raise click.ClickException(f"{file} can't be written: {error.strerror}") from None
