"""Simulates nodes that follow the feed of changes: how far behind a commit they are, and what their asking costs.

The rule: event by event and from a seed. What queues is modelled (the database's cores, a node that is still busy with
its last question); what doesn't is a constant.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

_AFTERWARDS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is simulated.

    Attributes:
        pause_seconds: between two questions of a node.
        notified: whether nodes are also told of each commit, and ask then.
        network_seconds: from a node to the database, one way.
        cores: of the database, for these questions.
        query_seconds: of a core, for one question.
        row_seconds: of a core, for each change in the answer.
    """

    nodes: int
    changes_per_second: float
    pause_seconds: float
    notified: bool
    network_seconds: float
    cores: int
    query_seconds: float
    row_seconds: float


@dataclass(slots=True)
class Lag:
    """How the cluster did.

    Attributes:
        lags_ms: from each commit to when each node answered with it.
        questions: of all nodes.
        busy_seconds: of the database's cores, for them.
    """

    lags_ms: list[float] = field(default_factory=list)
    questions: int = 0
    busy_seconds: float = 0.0


@dataclass(slots=True)
class _Node:
    """One that follows.

    Attributes:
        known: how many changes it answers with.
        asks_again: it was told of a commit while its question was under way.
    """

    known: int = 0
    is_asking: bool = False
    asks_again: bool = False


def simulate(cluster: Cluster, *, seconds: float, seed: int = 1) -> Lag:
    """Let the cluster run for so long, and then until everybody knows everything.

    Commits come at random (Poisson). A node asks after each pause, and when it is told; while its last question is
    under way it only notes that it has to ask once more. The database answers first come first served; an answer is
    as of the moment at which the database turns to it.
    """
    return _Simulation(cluster, seconds=seconds, draw=Random(seed)).run()


class _Simulation:
    def __init__(self, cluster: Cluster, *, seconds: float, draw: Random) -> None:
        self._cluster = cluster
        self._end = seconds + _AFTERWARDS_SECONDS
        self._commits: list[float] = []
        at = draw.expovariate(cluster.changes_per_second)
        while at < seconds:
            self._commits.append(at)
            at += draw.expovariate(cluster.changes_per_second)
        self._nodes = [_Node() for _ in range(cluster.nodes)]
        self._idle_cores = cluster.cores
        self._waiting: deque[_Node] = deque()
        self._lag = Lag()
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        for node in self._nodes:
            # They weren't started in step.
            self._after(draw.uniform(0, cluster.pause_seconds), lambda node=node: self._poll(node))  # type: ignore[misc]
        if cluster.notified:
            for commit in self._commits:
                self._after(commit + cluster.network_seconds, self._tell_everybody)

    def run(self) -> Lag:
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        return self._lag

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        # The number keeps events of the same moment in their order.
        self._scheduled += 1
        heapq.heappush(self._events, (self._now + seconds, self._scheduled, happen))

    # --- nodes ----------------------------------------------------------------------------

    def _poll(self, node: _Node) -> None:
        if self._now < self._end:
            self._after(self._cluster.pause_seconds, lambda: self._poll(node))
            self._ask(node)

    def _tell_everybody(self) -> None:
        for node in self._nodes:
            self._ask(node)

    def _ask(self, node: _Node) -> None:
        if node.is_asking:
            node.asks_again = True
            return
        node.is_asking = True
        self._after(self._cluster.network_seconds, lambda: self._arrive(node))

    def _learn(self, node: _Node, changes: int) -> None:
        self._lag.lags_ms += [1000 * (self._now - commit) for commit in self._commits[node.known : changes]]
        node.known, node.is_asking = changes, False
        if node.asks_again:
            node.asks_again = False
            self._ask(node)

    # --- the database ---------------------------------------------------------------------

    def _arrive(self, node: _Node) -> None:
        self._waiting.append(node)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._idle_cores:
            self._idle_cores -= 1
            node = self._waiting.popleft()
            changes = bisect_right(self._commits, self._now)
            takes = self._cluster.query_seconds + (changes - node.known) * self._cluster.row_seconds
            self._lag.questions += 1
            self._lag.busy_seconds += takes
            self._after(takes, lambda node=node, changes=changes: self._answer(node, changes))  # type: ignore[misc]

    def _answer(self, node: _Node, changes: int) -> None:
        self._idle_cores += 1
        self._after(self._cluster.network_seconds, lambda: self._learn(node, changes))
        self._serve()
