"""What commands share: the configuration, logging, and errors told in words instead of tracebacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from identity_server.config import Config, ConfigError, load
from identity_server.domain.errors import IdentityServerError
from identity_server.key_files import KeyProblem
from identity_server.observability import set_up_logging
from identity_server.outbound.sms import ProviderProblem
from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.policies import PolicyProblems
from identity_server.server import CannotListen
from identity_server.storage.database import CannotWrite
from identity_server.storage.schema import SchemaProblem
from identity_server.wiring.storage import IndexProblem

# Problems that the operator can put right; everything else is a fault of ours and shows its traceback.
_OPERATORS = (
    CannotListen,
    CannotWrite,
    IndexProblem,
    KeyProblem,
    ProviderProblem,
    SchemaProblem,
    IdentityServerError,
)
_LISTS = (PolicyProblems, BrandingProblems)

conf_option = click.option(
    "-c",
    "--conf",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file. Default: $SYDENT_CONF, else ./sydent.conf, else defaults with data in ./data.",
)


def load_config(conf: Path | None, *, strict: bool = False) -> Config:
    """Read the configuration, or end the program with everything that is wrong."""
    try:
        return load(conf, environ=os.environ, strict=strict)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        raise SystemExit(2) from None


def set_up(conf: Path | None) -> Config:
    """Read the configuration and start logging as it says; its warnings are the first thing logged."""
    config = load_config(conf)
    # Logs, copies, pid file: nothing of it is anybody else's business.
    os.umask(0o077)
    set_up_logging(level=config.general.log_level, form=config.general.log_format, path=config.general.log_path)
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    return config


@contextmanager
def told_in_words() -> Iterator[None]:
    """End the program with a sentence where the operator can put things right."""
    try:
        yield
    except _LISTS as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        raise SystemExit(1) from None
    except _OPERATORS as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
