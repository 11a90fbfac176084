"""The board: what one process writes, the others read, whatever becomes of the writer."""

from __future__ import annotations

import os

import pytest

from identity_server.metrics import BUCKETS, Metrics, Reading, Totals
from identity_server.server import board as module
from identity_server.server.board import PARENT, Board


def counted(*, jobs: int = 0, requests: int = 0) -> Totals:
    metrics = Metrics()
    for _ in range(jobs):
        metrics.count_job("mail", "done")
    for _ in range(requests):
        metrics.observe_request("/ready", "GET", 200, 0.002)
    return metrics.totals


def test_sums_of_all_are_added_up() -> None:
    board = Board(workers=2)
    board.publish(PARENT, counted(jobs=1))
    for _ in range(2):
        board.publish(board.take_place(), counted(jobs=2, requests=3))
    totals = board.totals()
    assert totals.numbers["jobs", "mail", "done"] == 5
    durations = totals.requests["/ready", "GET", 200]
    assert sum(durations.counts) == durations.counts[1] == 6
    assert BUCKETS[0] < durations.seconds / 6 < BUCKETS[1]


def test_gauges_become_one_as_they_are_declared_to_and_end_with_their_process() -> None:
    board = Board(workers=2)
    places = [board.take_place(), board.take_place()]
    for place, number in zip(places, (3.0, 5.0), strict=True):
        metrics = Metrics()
        metrics.count_chore("sweep visits", "done")
        for name in ("connections", "index_changes", "index_followed"):
            metrics.measure(name, value=number)
        metrics.note_reading(Reading(taken_at=number, gauges={("pepper_age_seconds",): number}))
        board.publish(place, metrics.totals)
    totals = board.totals()
    assert [totals.gauges[name,] for name in ("connections", "index_changes", "index_followed")] == [8, 5, 3]
    assert totals.reading is not None
    assert totals.reading.gauges["pepper_age_seconds",] == 5, "the newest"
    former = Totals()
    former.add_counted(board.leave(places[1]))
    board.publish(PARENT, former)
    totals = board.totals()
    assert totals.gauges["connections",] == 3
    assert totals.numbers["chore_runs", "sweep visits", "done"] == 2


def test_another_process_sees_what_was_published() -> None:
    board = Board(workers=1)
    place = board.take_place()
    pid = os.fork()
    if pid == 0:
        board.publish(place, counted(requests=7))
        os._exit(0)
    os.waitpid(pid, 0)
    assert sum(board.totals().requests["/ready", "GET", 200].counts) == 7


def test_place_of_who_has_left_is_empty_for_the_next_one() -> None:
    board = Board(workers=1)
    place = board.take_place()
    board.publish(place, counted(jobs=3))
    assert board.leave(place).numbers["jobs", "mail", "done"] == 3
    assert board.totals() == Totals()
    assert board.take_place() == place
    assert board.totals() == Totals()


def test_writer_killed_in_the_middle_leaves_what_it_wrote_before() -> None:
    board = Board(workers=1)
    place = board.take_place()
    board.publish(place, counted(jobs=1))
    board.publish(place, counted(jobs=2))
    newer = board._newer[place]
    # It was about to write its third sums over the first ones; then, at the worst moment, over the newest.
    for text, expected in ((1 - newer, 2), (newer, 0)):
        start = board._start(place, text) + module._TEXT_HEAD.size
        board._texts[start : start + 3] = b"???"
        assert board.totals().numbers["jobs", "mail", "done"] == expected


def test_fewest_connections_are_those_of_workers_that_take_any() -> None:
    board = Board(workers=3)
    first, second, _starting = (board.take_place() for _ in range(3))
    board.set_connections(first, 7)
    board.set_connections(second, 4)
    assert board.fewest_connections() == 4
    board.leave(second)
    assert board.fewest_connections() == 7


def test_places_are_as_many_as_were_asked_for() -> None:
    board = Board(workers=2)
    places = {board.take_place(), board.take_place()}
    assert places == {1, 2}
    with pytest.raises(IndexError):
        board.take_place()


def test_sums_that_are_too_large_are_left_out_and_the_former_ones_stay() -> None:
    board = Board(workers=1)
    place = board.take_place()
    board.publish(place, counted(jobs=1))
    huge = Metrics()
    for number in range(10_000):
        huge.observe_request(f"/{number}", "GET", 200, 1.0)
    board.publish(place, huge.totals)
    assert board.totals().numbers["jobs", "mail", "done"] == 1
