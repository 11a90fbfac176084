from __future__ import annotations

import random

from bench.guessing import by_python, lasting, mobile_numbers


def test_numbers_of_a_country_are_as_many_as_its_plan_has_room_for() -> None:
    chance = random.Random(1)
    # Seven digits, of which those that begin with 6, 7 or 8 are for the most part mobile.
    assert 2e6 < mobile_numbers("IS", 500, chance) < 1e7
    assert mobile_numbers("US", 500, chance) > 1e9


def test_guesses_are_counted() -> None:
    assert 1e5 < by_python().per_second < 1e8


def test_lengths_of_time_are_for_people() -> None:
    assert [lasting(seconds) for seconds in (1, 119, 120, 7_200, 172_800)] == [
        "1 s",
        "119 s",
        "2 minutes",
        "2 hours",
        "2 days",
    ]
