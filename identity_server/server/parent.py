"""The parent: starts workers, replaces those that end, reads the configuration again, and ends them all.

It forks. So what several workers run on is loaded once, and a new one is there in no time (`loading.py`); and so the
parent has no event loop, no thread and no database connection, none of which may be inherited. Whatever must be
tried before it is relied on (schema, keys, templates, terms) is tried by a worker, the first of its configuration:
if that one doesn't get ready, nothing has changed.

The rule: nothing here waits for anything but for what the workers and the kernel say.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import orjson
import structlog

from identity_server.config import Config, ConfigError, all_sections
from identity_server.config.values import MAX_WORKERS
from identity_server.metrics import Totals
from identity_server.observability import rotate_log, set_up_logging
from identity_server.server.board import PARENT, Board
from identity_server.server.descriptors import raise_limit
from identity_server.server.listeners import Listeners, listening, name_of
from identity_server.server.loading import load_work
from identity_server.server.notify import READY, STOPPING, notify, reloading
from identity_server.server.pid_file import pid_file
from identity_server.server.post import DRAIN_SECONDS, PREPARED, RETIRE, STOP, Post

_log = structlog.get_logger(__name__)

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PAUSES_SECONDS: Final = (0.0, 0.25, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""How long to wait before a worker is replaced, by how many in a row have come to nothing."""

_PROVEN_SECONDS = 1.0
"""A worker that has served for as long has come to something."""

_IDLE_SECONDS = 30.0

# How one ends that was told to: by itself, or by the signal if it didn't listen for that yet.
_AS_TOLD = (0, -STOP, -RETIRE)

# What belongs to the parent: the rest of the configuration is read by each worker at its start.
_FIXED = (
    ("http", "clientapi_http_bind_address"),
    ("http", "clientapi_http_port"),
    ("http", "internalapi_http_bind_address"),
    ("http", "internalapi_http_port"),
    ("general", "prometheus_addr"),
    ("general", "prometheus_port"),
    ("general", "pidfile_path"),
    ("db", "file"),
    ("db", "url"),
    ("lookup", "index_dir"),
)


class StartFailed(Exception):
    """The first worker didn't get ready.

    Attributes:
        problems: what the operator has to put right; empty if the log has a traceback instead.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems or ("the server could not start; the log says why",)


def serve(config: Config, *, read_again: Callable[[], Config], ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads everything again.

    Args:
        config: what to serve, and where.
        read_again: the configuration as it is now; raises ConfigError.
        ready: called once requests are taken.

    Raises:
        CannotListen: an address is taken or isn't ours.
        StartFailed: the first worker says what is wrong.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(_signals())
        raise_limit()
        listeners = stack.enter_context(listening(config))
        parent = _Parent(config, listeners=listeners, signals=signals, read_again=read_again)
        stack.callback(parent.close)
        if not parent.start():
            return
        stack.enter_context(pid_file(config.general.pidfile_path))
        _log.info("serving", server_name=config.general.server_name, listening=name_of(listeners.client))
        if listeners.internal is not None:
            _log.info("serving internally", listening=name_of(listeners.internal))
        if listeners.metrics is not None:
            _log.info("serving metrics", listening=name_of(listeners.metrics))
        ready()
        notify(READY)
        parent.run()


@contextmanager
def _signals() -> Iterator[int]:
    """Have signals arrive as bytes, to be read when there is time; yields where from."""
    incoming, outgoing = os.pipe()
    for end in (incoming, outgoing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(outgoing)
    before = {number: signal.signal(number, lambda *_: None) for number in _HANDLED}
    try:
        yield incoming
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        for end in (incoming, outgoing):
            os.close(end)


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker as its parent knows it.

    Attributes:
        report: where it says that it is ready, or what is wrong.
        said: what it has said so far.
        config: what it serves; by identity, which tells newer from older ones.
        ready_at: since when it takes requests, by the monotonic clock.
        leaving: whether it was told to end.
        kill_at: when it is killed if it hasn't ended by then.
        status: how it ended; None as long as it hasn't.
    """

    pid: int
    place: int
    report: int
    config: Config
    said: bytes = b""
    problems: tuple[str, ...] = ()
    ready_at: float | None = None
    leaving: bool = False
    kill_at: float | None = None
    status: int | None = None


@dataclass(slots=True)
class _Failures:
    """How many workers in a row have come to nothing, and when the next one may try."""

    count: int = 0
    next_at: float = 0.0

    def add(self, now: float) -> float:
        pause = _PAUSES_SECONDS[min(self.count, len(_PAUSES_SECONDS) - 1)]
        self.count += 1
        self.next_at = now + pause
        return pause

    def forget(self) -> None:
        self.count, self.next_at = 0, 0.0


class _Parent:
    """Keeps as many workers as the configuration wants, all of the configuration that is in force.

    One that is told to end is no longer counted. While workers are replaced there is one more than usual.
    """

    def __init__(
        self, config: Config, *, listeners: Listeners, signals: int, read_again: Callable[[], Config]
    ) -> None:
        self._config = config
        self._trial: Config | None = config
        self._listeners = listeners
        self._signals = signals
        self._read_again = read_again
        # Twice as many as serve: a worker that drains keeps its place while its successor has another.
        self._board = Board(workers=2 * MAX_WORKERS)
        self._totals = Totals()
        self._workers: dict[int, _Worker] = {}
        self._failures = _Failures()
        self._reload_wanted = False
        self._stopping = False
        # Only this process has the second end: when it is gone, whoever has the first one notices.
        self._life, self._life_held = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, self._take_signals)

    # --- the two phases ---------------------------------------------------------------------

    def start(self) -> bool:
        """Start the first worker and wait until it takes requests; False if the server was told to end meanwhile.

        Raises:
            StartFailed: it didn't get that far.
        """
        # Now or never: later there may be another version on the disk, and this process must not take harm from it.
        if self._wanted > 1:
            load_work()
        first = self._start_one(is_first=True)
        if first.status == PREPARED and not self._stopping:
            _log.info("worker.prepared", pid=first.pid)
            self._trial = self._config
            first = self._start_one(is_first=False)
        if self._stopping:
            self._end_all()
            return False
        if first.ready_at is None:
            raise StartFailed(first.problems)
        return True

    def _start_one(self, *, is_first: bool) -> _Worker:
        """Start a worker, and wait until it takes requests or is gone."""
        first = self._spawn(self._config, is_first=is_first)
        while first.ready_at is None and first.pid in self._workers:
            self._wait()
        return first

    def run(self) -> None:
        """Mind the workers until told to stop, and then until all have ended."""
        while not self._stopping:
            while self._mind_workers():
                pass
            self._wait()
        self._end_all()

    def close(self) -> None:
        """Let go of everything; a worker that is still there ends by itself."""
        self._selector.close()
        for end in (self._life, self._life_held):
            os.close(end)

    # --- waiting ----------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for whatever is next, and take note of it."""
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.kill_at is not None and worker.kill_at <= now:
                _log.error("worker.killed", pid=worker.pid, reason="it didn't drain in time")
                worker.kill_at = None
                _send(worker, signal.SIGKILL)
        rotate_log()

    def _patience(self) -> float:
        due = [worker.kill_at for worker in self._workers.values() if worker.kill_at is not None]
        now = time.monotonic()
        if self._failures.next_at > now:
            due.append(self._failures.next_at)
        return min([_IDLE_SECONDS, *(max(0.0, at - now) for at in due)])

    def _take_signals(self) -> None:
        for number in os.read(self._signals, 4096):
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._stop()
            elif number == signal.SIGHUP:
                self._reload_wanted = True
        self._reap()

    def _reap(self) -> None:
        # Of all children: as process 1 of a container, this one inherits others' orphans, too.
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if (worker := self._workers.get(pid)) is not None:
                    self._ended(worker, os.waitstatus_to_exitcode(status))

    # --- workers ----------------------------------------------------------------------------

    def _mind_workers(self) -> bool:
        """Do what is next; False if there is nothing to be done until something happens."""
        if self._reload_wanted and self._trial is None:
            self._reload_wanted = False
            self._reload()
        if time.monotonic() < self._failures.next_at:
            return False
        staying = [each for each in self._workers.values() if not each.leaving]
        serving = [each for each in staying if each.config is not self._trial]
        if len(serving) < self._wanted:
            self._spawn(self._config)
            return True
        if self._trial is not None and len(serving) == len(staying):
            self._spawn(self._trial)
            return True
        if any(each.ready_at is None for each in staying):
            return False
        outdated = [each for each in staying if each.config is not self._config]
        if len(staying) > self._wanted:
            self._tell_to_end((outdated or staying)[0], RETIRE)
            return True
        if outdated:
            self._spawn(self._config)
        return bool(outdated)

    @property
    def _wanted(self) -> int:
        return worker_count(self._config)

    def _spawn(self, config: Config, *, is_first: bool = False) -> _Worker:
        heard, said = os.pipe()
        os.set_blocking(heard, False)
        place = self._board.take_place()
        post = Post(
            config=config,
            listeners=self._listeners,
            board=self._board,
            place=place,
            life=self._life,
            report=said,
            is_first=is_first,
        )
        # What stands in the buffer would be written by both.
        sys.stdout.flush()
        # A signal that arrives in between must not find the parent's handlers in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_HANDLED, RETIRE})
        pid = os.fork()
        if pid == 0:
            self._become(post, heard=heard, mask=before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(said)
        worker = _Worker(pid, place, heard, config)
        self._workers[pid] = worker
        self._selector.register(heard, selectors.EVENT_READ, lambda: self._listen_to(worker))
        return worker

    def _become(self, post: Post, *, heard: int, mask: Collection[int]) -> None:
        """Be a worker, in a new process, to its end."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (STOP, RETIRE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # A terminal sends these to everybody; what follows from them is the parent's to say.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            self._selector.close()
            others = [worker.report for worker in self._workers.values() if worker.report >= 0]
            for end in (self._signals, self._life_held, heard, *others):
                os.close(end)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = load_work()(post)
        except BaseException:  # noqa: BLE001 - nothing may get past here into the parent's own code
            _log.exception("worker.failed")
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(status)

    def _listen_to(self, worker: _Worker) -> None:
        if worker.report < 0:
            return  # heard already, when its end was noted
        heard = os.read(worker.report, 65_536)
        worker.said += heard
        if heard and not worker.said.endswith(b"\n"):
            return
        self._selector.unregister(worker.report)
        os.close(worker.report)
        worker.report = -1
        if not heard:
            return  # it has ended, and the signal of that is on its way
        worker.problems = tuple(orjson.loads(worker.said))
        if not worker.problems:
            self._got_ready(worker)

    def _got_ready(self, worker: _Worker) -> None:
        worker.ready_at = time.monotonic()
        _log.info("worker.ready", pid=worker.pid)
        self._show()
        if worker.config is not self._trial:
            return
        self._trial = None
        if worker.config is not self._config:
            self._config = worker.config
            self._log_as_configured()
            _log.info("reloaded", workers=self._wanted)
            notify(READY)

    def _ended(self, worker: _Worker, status: int) -> None:
        del self._workers[worker.pid]
        worker.status = status
        if worker.report >= 0:
            # What it said last is still in the pipe.
            self._listen_to_the_end(worker)
        self._totals.add_counted(self._board.leave(worker.place))
        now = time.monotonic()
        if worker.leaving and status in _AS_TOLD:
            _log.info("worker.ended", pid=worker.pid)
        elif worker.leaving:
            _log.error("worker.ended", pid=worker.pid, reason=_how(status))
        elif worker.config is self._trial:
            self._refuse(worker)
        else:
            self._totals.numbers["workers_lost",] += 1
            lived = worker.ready_at is not None and now - worker.ready_at >= _PROVEN_SECONDS
            if lived:
                self._failures.forget()
            pause = self._failures.add(now)
            reason = "; ".join(worker.problems) or _how(status)
            _log.error("worker.lost", pid=worker.pid, reason=reason, replaced_in_seconds=pause)
        self._show()

    def _listen_to_the_end(self, worker: _Worker) -> None:
        while worker.report >= 0:
            self._listen_to(worker)

    def _show(self) -> None:
        ready = sum(worker.ready_at is not None and not worker.leaving for worker in self._workers.values())
        self._totals.gauges["workers",] = float(ready)
        self._board.publish(PARENT, self._totals)

    # --- another configuration ----------------------------------------------------------------

    def _reload(self) -> None:
        """Read everything again, and try it with one worker."""
        notify(reloading())
        try:
            config = self._read_again()
        except ConfigError as error:
            _log.error("not_reloaded", reason="; ".join(map(str, error.problems)))
            notify(READY)
            return
        for section, attribute in _FIXED:
            mine, new = getattr(self._config, section), getattr(config, section)
            if getattr(mine, attribute) != getattr(new, attribute):
                _log.warning("needs_restart", section=section, key=_key_name(section, attribute))
                new = replace(new, **{attribute: getattr(mine, attribute)})
                config = replace(config, **{section: new})
        self._failures.forget()
        self._trial = config

    def _log_as_configured(self) -> None:
        general = self._config.general
        try:
            set_up_logging(level=general.log_level, form=general.log_format, path=general.log_path, rotates=True)
        except OSError as error:
            _log.error("log.not_opened", reason=error.strerror)

    def _refuse(self, worker: _Worker) -> None:
        """The worker that tried a configuration failed. If there are others, they go on with theirs."""
        self._trial = None
        if worker.config is self._config:
            return  # `start` says what is wrong
        _log.error("not_reloaded", reason="; ".join(worker.problems) or "the new worker failed; see above")
        notify(READY)

    # --- the end --------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._stopping:
            # Told twice: whoever says so doesn't want to wait.
            for worker in self._workers.values():
                _send(worker, signal.SIGKILL)
            return
        self._stopping = True
        notify(STOPPING)
        _log.info("stopping", drain_seconds=DRAIN_SECONDS)
        self._listeners.close()
        for worker in self._workers.values():
            self._tell_to_end(worker, STOP)

    def _tell_to_end(self, worker: _Worker, how: signal.Signals) -> None:
        worker.leaving = True
        # One that drains already keeps its time.
        worker.kill_at = worker.kill_at or time.monotonic() + DRAIN_SECONDS
        _send(worker, how)

    def _end_all(self) -> None:
        while self._workers:
            self._wait()


def worker_count(config: Config) -> int:
    """How many workers there are to be."""
    if config.http.workers is not None:
        return config.http.workers
    # SQLite has one writer at a time; one process answers more lookups than most will ever ask.
    return 1 if config.db.url is None else min(_usable_cores(), MAX_WORKERS)


def _usable_cores() -> int:
    # Linux tells which of them this process may use; a container may have fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _key_name(section: str, attribute: str) -> str:
    return next(each.keys[attribute].name for each in all_sections() if each.name == section)


def _send(worker: _Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(worker.pid, number)


def _how(status: int) -> str:
    return f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"
