"""Whom a command is about, as operators write it."""

from __future__ import annotations

import sys

import click

from identity_server.domain.audit import Subject
from identity_server.domain.errors import IdentityServerError
from identity_server.domain.identifiers import (
    Medium,
    ServerName,
    Threepid,
    UserId,
    canonical_email,
    parse_server_name,
    parse_user_id,
)
from identity_server.domain.phone import parse_phone_number

_STANDARD_INPUT = "-"


def read_subject(text: str) -> Subject:
    """An e-mail address, a phone number as +4912345, a Matrix ID, or a homeserver's name.

    Raises:
        click.BadParameter: it is none of these.
    """
    try:
        if text.startswith("@"):
            return parse_user_id(text)
        if "@" in text:
            return Threepid(Medium.EMAIL, canonical_email(text))
        if text.startswith("+"):
            return parse_phone_number(text).threepid
        return parse_server_name(text)
    except IdentityServerError:
        raise click.BadParameter("this is no e-mail address, phone number, Matrix ID or server name") from None


def read_server_name(text: str) -> ServerName:
    """A homeserver's name.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        return parse_server_name(text)
    except IdentityServerError:
        raise click.BadParameter("this is no name of a homeserver, such as example.org") from None


def read_user_id(text: str) -> UserId:
    """A Matrix ID; `-` stands for the next line of standard input.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        return parse_user_id(_spelt_out(text))
    except IdentityServerError:
        raise click.BadParameter("this is no Matrix ID, such as @alice:example.org") from None


def read_threepid(text: str) -> Threepid:
    """An e-mail address or a phone number as +4912345; `-` stands for the next line of standard input.

    Raises:
        click.BadParameter: it is neither.
    """
    found = read_subject(_spelt_out(text))
    if not isinstance(found, Threepid):
        raise click.BadParameter("this is no e-mail address, and no phone number as +4912345")
    return found


def _spelt_out(text: str) -> str:
    # What is typed as an argument stays in the shell's history, and others on the machine can see it meanwhile.
    return sys.stdin.readline().strip() if text == _STANDARD_INPUT else text
