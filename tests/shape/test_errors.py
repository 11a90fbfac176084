"""Every error has a row in the wire table, and every row is for an error that exists."""

from __future__ import annotations

import inspect
import re

from identity_server.api.errors import TABLE, error_response, status_and_errcode
from identity_server.domain import errors

ALL = {
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.IdentityServerError) and each is not errors.IdentityServerError
}


def test_every_error_has_a_row_of_its_own() -> None:
    assert set(TABLE) == ALL


def test_rows_make_sense() -> None:
    for status, errcode in TABLE.values():
        assert 400 <= status < 600
        assert re.fullmatch(r"M_[A-Z_]+", errcode)


def test_unlisted_error_is_a_fault_of_ours() -> None:
    assert status_and_errcode(errors.IdentityServerError()) == (500, "M_UNKNOWN")


def test_heir_takes_the_row_of_its_ancestor() -> None:
    class Special(errors.NoSuchSession):
        pass

    assert status_and_errcode(Special()) == TABLE[errors.NoSuchSession]


def test_limit_tells_when_to_come_back_in_both_forms() -> None:
    response = error_response(errors.RateLimited(retry_after_ms=1001, limit="bind"))
    assert response.headers["Retry-After"] == "2"
    assert isinstance(response.body, bytes)
    assert b'"retry_after_ms":1001' in response.body
