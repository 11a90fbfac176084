from __future__ import annotations

from dataclasses import replace

import pytest

from bench.lag import Cluster, simulate

_POLLING = Cluster(
    nodes=5,
    changes_per_second=10,
    pause_seconds=1,
    notified=False,
    network_seconds=0.001,
    cores=1,
    query_seconds=0.001,
    row_seconds=0,
)


def test_every_node_learns_of_every_commit_once() -> None:
    lag = simulate(_POLLING, seconds=30)

    assert len(lag.lags_ms) % _POLLING.nodes == 0
    assert 200 < len(lag.lags_ms) / _POLLING.nodes < 400, "about ten a second in thirty seconds"
    # A pause at worst, then the way there, the question, and the way back.
    assert min(lag.lags_ms) >= 2
    assert max(lag.lags_ms) <= 1000 + 3 + 5
    assert lag.busy_seconds == pytest.approx(lag.questions * _POLLING.query_seconds)


def test_nodes_that_are_told_wait_for_the_ways_and_the_question_alone() -> None:
    lag = simulate(replace(_POLLING, nodes=1, notified=True, changes_per_second=1), seconds=60)

    assert 3.9 < sorted(lag.lags_ms)[len(lag.lags_ms) // 2] < 4.1


def test_questions_queue_for_the_databases_cores() -> None:
    told = replace(_POLLING, nodes=100, notified=True, changes_per_second=1)

    one, many = simulate(told, seconds=30), simulate(replace(told, cores=100), seconds=30)

    assert max(one.lags_ms) > 100, "the last of a hundred waits for the others"
    assert sorted(many.lags_ms)[len(many.lags_ms) // 2] < 5


def test_same_seed_same_figures() -> None:
    assert simulate(_POLLING, seconds=10) == simulate(_POLLING, seconds=10)
    assert simulate(_POLLING, seconds=10) != simulate(_POLLING, seconds=10, seed=2)
