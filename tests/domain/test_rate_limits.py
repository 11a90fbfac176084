from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.rate_limits import RateLimit


def test_burst_and_then_one_each_interval() -> None:
    limit = RateLimit(burst=3, interval_ms=1000)
    arrival: int | None = None
    for _ in range(3):
        allowed, arrival = limit.take(arrival, now_ms=0)
        assert allowed
    assert limit.take(arrival, now_ms=0) == (False, 1000)
    assert limit.take(arrival, now_ms=400) == (False, 600)
    allowed, arrival = limit.take(arrival, now_ms=1000)
    assert allowed
    assert limit.take(arrival, now_ms=1000) == (False, 1000)


def test_allowance_becomes_whole_and_no_more() -> None:
    limit = RateLimit(burst=2, interval_ms=10)
    arrival: int | None = 5
    taken = 0
    while True:
        allowed, value = limit.take(arrival, now_ms=10**9)
        if not allowed:
            break
        arrival, taken = value, taken + 1
    assert taken == 2


def test_rate_in_calls_per_second() -> None:
    assert RateLimit.per_second(burst=5, rate_hz=1 / 300) == RateLimit(burst=5, interval_ms=300_000)


@given(st.integers(1, 5), st.integers(1, 50), st.lists(st.integers(0, 40), max_size=60))
def test_never_more_than_promised(burst: int, interval_ms: int, pauses: list[int]) -> None:
    limit = RateLimit(burst=burst, interval_ms=interval_ms)
    arrival: int | None = None
    now, granted = 0, 0
    for pause in pauses:
        now += pause
        allowed, value = limit.take(arrival, now_ms=now)
        if allowed:
            arrival, granted = value, granted + 1
        else:
            assert limit.take(arrival, now_ms=now + value)[0], "the promised wait is long enough"
            assert not limit.take(arrival, now_ms=now + value - 1)[0], "and not longer than needed"
    assert granted <= burst + now // interval_ms
