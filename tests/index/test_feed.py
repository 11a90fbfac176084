"""Numbers of the feed that come late are waited for, and those that never come are not waited for for ever."""

from __future__ import annotations

from identity_server.index.feed import PATIENCE_SECONDS, FeedPosition


def test_numbers_may_come_in_any_order() -> None:
    position = FeedPosition(10)
    assert position.advance([11, 14, 15], now_seconds=0)
    assert (position.highest, position.complete_to, set(position.missing)) == (15, 11, {12, 13})

    assert position.advance([13, 16], now_seconds=1)
    assert (position.highest, position.complete_to) == (16, 11)

    assert position.advance([12], now_seconds=2)
    assert (position.highest, position.complete_to, position.missing) == (16, 16, {})


def test_what_never_comes_was_rolled_back() -> None:
    position = FeedPosition(0)
    position.advance([2], now_seconds=0)
    position.advance([4], now_seconds=30)

    position.give_up_missing(now_seconds=PATIENCE_SECONDS - 1)
    assert set(position.missing) == {1, 3}
    position.give_up_missing(now_seconds=PATIENCE_SECONDS)
    assert (set(position.missing), position.complete_to) == ({3}, 2)


def test_a_leap_that_no_transactions_explain_is_a_doubt() -> None:
    assert not FeedPosition(0).advance([10_000_000], now_seconds=0)
