"""Who may know of an association, and for how long it is one."""

from __future__ import annotations

import pytest

from identity_server.domain.association import Visibility
from identity_server.domain.identifiers import UserId
from tests.support import make

OWNER, NEIGHBOUR, STRANGER = "@alice:example.org", "@bob:example.org", "@alice:example.org.evil.example"


@pytest.mark.parametrize(
    ("visibility", "may_know"),
    [
        (Visibility.EVERYONE, {OWNER, NEIGHBOUR, STRANGER, None}),
        (Visibility.HOMESERVER, {OWNER, NEIGHBOUR}),
        (Visibility.NOBODY, {OWNER}),
    ],
)
def test_who_may_know(visibility: Visibility, may_know: set[str | None]) -> None:
    association = make.association(user_id=OWNER, visibility=visibility)
    for asker in (OWNER, NEIGHBOUR, STRANGER, "@bob:example.org:8448", None):
        told = association.is_shown_to(None if asker is None else UserId(asker))
        assert told is (asker in may_know or visibility is Visibility.EVERYONE)


def test_holds_from_its_first_moment_to_its_last() -> None:
    association = make.association()
    assert not association.holds(association.not_before - 1)
    assert association.holds(association.not_before)
    assert association.holds(association.not_after - 1)
    assert not association.holds(association.not_after)


def test_visibility_is_no_part_of_what_is_signed() -> None:
    shown, hidden = make.association(), make.association(visibility=Visibility.NOBODY)
    assert shown.to_wire() == hidden.to_wire()


def test_decision_of_one_owner_does_not_hold_for_the_next() -> None:
    association = make.association(user_id=OWNER)
    assert association.succeeding(UserId(OWNER), Visibility.NOBODY).visibility is Visibility.NOBODY
    assert association.succeeding(UserId(NEIGHBOUR), Visibility.NOBODY) == association
