"""Lookups of so many addresses that the server doesn't make strings of them: the same answers, however they are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import orjson
import pytest
import pytest_asyncio

from tests.api.support import post_raw
from tests.support.harness import Harness, User, hashed, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MANY = 2_500
BOUND = {f"friend{number}@example.com": number * 700 for number in range(4)}
"""Who is bound, and where in the list of what is asked for."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """A server that some are bound on, half of them since its index was made."""
    async with running(tmp_path_factory.mktemp("server")) as harness:
        alice = await harness.register()
        for number, address in enumerate(BOUND):
            if number == len(BOUND) // 2:
                await harness.system.index.save()
                await harness.system.index.catch_up()
            await harness.bound(alice, address, secret=f"s{number}")
        assert harness.system.index.size is not None
        assert harness.system.index.size.changes == len(BOUND) // 2
        yield harness


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(server: Harness) -> User:
    return await server.register("@bob:example.org")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pepper(server: Harness, bob: User) -> str:
    return await server.pepper(bob)


def queries(pepper: str) -> list[str]:
    """What is asked for: many whom nobody knows, and those who are bound."""
    asked = [hashed(f"nobody{number}@example.com", pepper) for number in range(_MANY)]
    for address, place in BOUND.items():
        asked[place] = hashed(address, pepper)
    return asked


def plain(asked: Sequence[str], pepper: str) -> bytes:
    return orjson.dumps({"algorithm": "sha256", "pepper": pepper, "addresses": asked})


def reordered(asked: Sequence[str], pepper: str) -> bytes:
    return orjson.dumps({"addresses": asked, "pepper": pepper, "algorithm": "sha256"})


def spaced(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(b",", b", ").replace(b":", b": ")


def escaped(asked: Sequence[str], pepper: str) -> bytes:
    first = asked[0]
    return plain(asked, pepper).replace(first.encode(), rf"\u{ord(first[0]):04x}{first[1:]}".encode())


def named_by_an_escape(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(b"addresses", rb"\u0061ddresses")


def repeated(asked: Sequence[str], pepper: str) -> bytes:
    return plain([*asked, *asked], pepper)


def with_what_is_no_hash(asked: Sequence[str], pepper: str) -> bytes:
    return plain(
        [*asked, "", "x", asked[0] + "=", "é" * 43, "a" * 20 + '","' + "b" * 20, "\\" * 43, "\n" * 43], pepper
    )


def after_another_list_of_that_name(asked: Sequence[str], pepper: str) -> bytes:
    return b'{"addresses":["' + b"A" * 43 + b'"],' + plain(asked, pepper)[1:]


def before_another_list_inside(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper)[:-1] + b',"more":{"addresses":["' + b"A" * 43 + b'"]}}'


SPELLINGS = (
    plain,
    reordered,
    spaced,
    escaped,
    named_by_an_escape,
    repeated,
    with_what_is_no_hash,
    after_another_list_of_that_name,
    before_another_list_inside,
)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda each: each.__name__)
async def test_however_they_are_written_the_answer_is_the_same(
    server: Harness, bob: User, pepper: str, spelling: Callable[[Sequence[str], str], bytes]
) -> None:
    reply = await post_raw(server, "lookup", spelling(queries(pepper), pepper), bob)
    assert reply.json == {"mappings": {hashed(address, pepper): "@alice:example.org" for address in BOUND}}
    for address in BOUND:
        assert reply.body.count(hashed(address, pepper).encode()) == 1


async def test_a_few_that_are_repeated_in_a_large_body_are_answered_once(
    server: Harness, bob: User, pepper: str
) -> None:
    asked = [hashed(address, pepper) for address in BOUND] * 2
    body = orjson.dumps({"algorithm": "sha256", "pepper": pepper, "addresses": asked, "more": "x" * 20_000})
    reply = await post_raw(server, "lookup", body, bob)
    assert reply.json == {"mappings": dict.fromkeys(asked, "@alice:example.org")}
    assert [reply.body.count(each.encode()) for each in asked] == [1] * len(asked)


def in_another_object(asked: Sequence[str], pepper: str) -> bytes:
    return orjson.dumps({"algorithm": "sha256", "pepper": pepper, "more": {"addresses": asked}})


def in_other_brackets(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(b"[", b"(")


def without_a_comma(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(b'","', b'"."', 3)


def with_a_comma_too_many(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(b'"]', b'",]')


def with_a_number(asked: Sequence[str], pepper: str) -> bytes:
    return plain([*asked, 1], pepper)  # type: ignore[list-item]  # that is the point


def with_something_behind(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper) + b"]"


def with_a_raw_line_end(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(asked[5].encode(), b"\n" + asked[5][1:].encode())


def with_bytes_that_are_no_text(asked: Sequence[str], pepper: str) -> bytes:
    return plain(asked, pepper).replace(asked[5].encode(), b"\xff" + asked[5][1:].encode())


async def test_of_two_lists_of_that_name_the_last_counts(server: Harness, bob: User, pepper: str) -> None:
    body = plain(queries(pepper), pepper)[:-1] + b',"addresses":[]}'
    assert (await post_raw(server, "lookup", body, bob)).json == {"mappings": {}}


@pytest.mark.parametrize(
    ("spelling", "errcode"),
    [
        (in_another_object, "M_MISSING_PARAMS"),
        (in_other_brackets, "M_NOT_JSON"),
        (without_a_comma, "M_NOT_JSON"),
        (with_a_comma_too_many, "M_NOT_JSON"),
        (with_a_number, "M_INVALID_PARAM"),
        (with_something_behind, "M_NOT_JSON"),
        (with_a_raw_line_end, "M_NOT_JSON"),
        (with_bytes_that_are_no_text, "M_NOT_JSON"),
    ],
)
async def test_what_is_wrong_with_a_large_body(
    server: Harness, bob: User, pepper: str, spelling: Callable[[Sequence[str], str], bytes], errcode: str
) -> None:
    reply = await post_raw(server, "lookup", spelling(queries(pepper), pepper), bob)
    assert (reply.status, reply.errcode) == (400, errcode)
