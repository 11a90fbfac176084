"""Whatever is stored about people, erasing knows where: a new table, column or limit has to be given its place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from sqlalchemy import Table

from identity_server.services.limits import (
    LIMITS_OF_MAILBOXES,
    LIMITS_OF_NUMBERS,
    LIMITS_OF_OTHERS,
    LIMITS_OF_USERS,
    WITH_PLACES,
)
from identity_server.storage.erasure.rows import NOBODY, OTHERWISE, PLACES
from identity_server.storage.schema.tables import metadata, retired_keys
from tests.shape.test_imports import modules

# What columns are called, or said to be, that tell of a person.
_PERSON = re.compile(r"user_id|sender|requested_by|mxid|account|_blind$|address_digest|key_digest|^sealed_|Matrix ID")
_LIMIT = re.compile(r"\b(take|take_place|ClientLimits)\(")
# Sealed, because they are secrets of the server's: nobody has entrusted them to it.
_SERVERS_OWN = frozenset({retired_keys.c.sealed_keys})


def telling(table: Table) -> set[str]:
    """The columns of a table by which somebody could be found, or that hold what somebody has entrusted to us."""
    of_people = [column for column in table.c if column not in _SERVERS_OWN]
    return {
        column.name for column in of_people if _PERSON.search(column.name) or _PERSON.search(column.comment or "")
    }


def test_every_table_has_its_place() -> None:
    placed = [place.table for place in PLACES]
    assert {*placed, *OTHERWISE, *NOBODY} == set(metadata.tables.values())
    assert len(placed) + len(OTHERWISE) + len(NOBODY) == len(metadata.tables)


def test_rows_are_found_by_every_column_that_tells_of_somebody() -> None:
    for place in PLACES:
        known = {column.name for column in (*place.by_user, *place.by_address)}
        assert {name for name in telling(place.table) if not name.startswith("sealed_")} == known, place.table.name


def test_what_says_nothing_about_anybody_has_no_such_column() -> None:
    assert [table.name for table in NOBODY if telling(table)] == []


def test_what_goes_along_is_not_forgotten() -> None:
    """A row that refers to a person's would keep it from being removed, or stay behind."""
    followers = {column.table for place in PLACES for column in place.followed_by}
    order = [place.table for place in PLACES]
    for table in metadata.tables.values():
        for key in table.foreign_keys:
            parent = key.column.table
            assert table in followers or order.index(table) < order.index(parent), table.name


def limits() -> Iterator[tuple[str, str]]:
    """The name of every limit that is taken anywhere, and how."""
    for source in (path.read_text() for _, path in modules()):
        if not _LIMIT.search(source):
            # Parsing takes far longer.
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"take", "take_place"} and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), called
            if called == "ClientLimits":
                yield from (
                    (str(ast.literal_eval(each.value)), called) for each in node.keywords if each.arg == "name"
                )


def test_every_limit_is_known_by_whom_it_counts() -> None:
    known = [LIMITS_OF_USERS, LIMITS_OF_MAILBOXES, LIMITS_OF_NUMBERS, LIMITS_OF_OTHERS]
    taken = list(limits())
    assert {name for name, _ in taken} == {name for names in known for name in names}
    of_people = {*LIMITS_OF_USERS, *LIMITS_OF_MAILBOXES, *LIMITS_OF_NUMBERS}
    assert {name for name, called in taken if called == "take_place"} & of_people == WITH_PLACES
