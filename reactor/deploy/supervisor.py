"""`Supervisor`: starts workers, replaces them one by one, and is replaced itself; no connection is lost.

It binds and keeps the listening sockets (`sockets.py`) and never touches a connection. Each event (a signal,
a message of a worker, the end of a process) changes the tables of `_Supervision`, and `_advance` does what
the tables then ask for.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections import Counter
from enum import Enum

import attrs

from reactor.address import Address, AddressLike
from reactor.deploy.channel import Channel, Message
from reactor.deploy.monitor import Member, Monitor, State
from reactor.deploy.process import Child, Role, take_role
from reactor.deploy.sockets import Key, ListeningSockets, Request
from reactor.deploy.status_address import StatusAddress
from reactor.deploy.systemd import ServiceManager
from reactor.deploy.worker import Setup, run_worker
from reactor.errors import AddressError, ListenError, SupervisorError
from reactor.loop.timers import Handle
from reactor.options import check_callable, check_type, seconds
from reactor.reactor import Reactor
from reactor.status.overview import Phase

__all__ = ["Supervisor"]

log = logging.getLogger("reactor")

#: Seconds that a process has to become ready.
START_TIMEOUT = 60.0

#: Seconds after its deadline at which a draining worker is killed. The kernel's own timer comes before.
_MARGIN = 2.0

# The pause before a worker that was not ready is started again, seconds, doubling; and how often it is tried.
_FIRST_PAUSE = 0.1
_LAST_PAUSE = 5.0
_MOST_FAILURES = 10

# A worker that ended sooner than this after it was ready is started again after a pause, seconds.
_SHORT_LIFE = 1.0
_SHORT_LIFE_PAUSE = 0.1

# Seconds for handshakes that are under way to a queue that gets no new ones.
_LAST_HANDSHAKES = 1.0

# Seconds between a second signal to end and SIGKILL.
_STOP_TIMEOUT = 1.0


class Supervisor:
    """A supervisor of worker processes, each with a reactor of its own.

    setup: called as `setup(reactor)` in each worker; it listens, as in a program without workers. Each worker
        is this same program, run anew until its call of `run`.
    workers: how many, 1 or more. SIGTTIN and SIGTTOU change it.
    max_workers: the number up to which SIGTTIN does, as 1 where workers would have state of their own that
        clients share; None: no limit.
    drain_timeout: seconds that a worker's connections have to end when it is replaced or stopped; finite.
    status: the address of the status page (`reactor.status.StatusPage`), of the loopback interface or of a
        Unix socket; None: there is none. It shows all workers, and goes on when the supervisor is replaced.
    status_open: serve it on any other interface too, to all who reach it.
    name: of the program, for the page's title.
    Raises TypeError or ValueError for invalid arguments, AddressError for an invalid address.

        from reactor import Protocol
        from reactor.deploy import Supervisor

        supervisor = Supervisor(lambda reactor: reactor.listen("127.0.0.1:9092", Protocol), workers=2)
        # supervisor.run() returns after SIGTERM
    """

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int = 1,
        max_workers: int | None = None,
        drain_timeout: float = 30.0,
        status: AddressLike | None = None,
        status_open: bool = False,
        name: str = "reactor",
    ) -> None:
        check_callable("setup", setup)
        check_type("name", name, str)
        check_type("workers", workers, int)
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, not {workers}")
        self._setup = setup
        if max_workers is not None and max_workers < workers:
            raise ValueError(f"max_workers must be {workers} or more, as workers is, not {max_workers}")
        self._workers = workers
        self._max_workers = max_workers
        self._drain_timeout = seconds("drain_timeout", drain_timeout, zero=True)
        if math.isinf(self._drain_timeout):
            raise ValueError("drain_timeout must be finite: no old process may stay for ever")
        self._status = None if status is None else Address.of(status)
        self._status_open = status_open
        self._name = name

    def run(self) -> None:
        """Supervise on the main thread until SIGINT or SIGTERM, or until a successor has taken over.

        In a worker it runs `setup` and serves, and raises SystemExit at the end: what follows the call is run
        by the supervisor alone. Raises SupervisorError if the first workers do not start, if one could not be
        restarted, or if a second signal ended everything at once. For the status page: ListenError,
        UsageError if others could reach it, ImportError without the extra `status`.
        """
        role = take_role()
        if role is not None and role.kind == "worker":
            run_worker(role, self._setup, self._drain_timeout)
        with Reactor() as reactor:
            status = StatusAddress(reactor, self._status, self._status_open)
            _Supervision(
                reactor, self._workers, self._max_workers, self._drain_timeout, status, self._name
            ).run(role)


class _Phase(Enum):
    STARTING = "starting"  # until the first workers are ready
    RUNNING = "running"
    ENDING = "ending"  # draining, because of a signal, a failure or a successor


@attrs.define(eq=False)
class _Worker:
    """A worker process. timer: kills it, while it starts and while it drains."""

    child: Child
    index: int
    timer: Handle
    keys: set[Key] = attrs.field(factory=set)
    ready_at: float = math.inf

    def __str__(self) -> str:
        return f"worker {self.index} (process {self.child.pid})"


class _Supervision:
    """The processes of a supervisor.

    target: how many workers there are to be; each has an index below it.
    starting, serving: workers by index, before and after they are ready. draining: those that end.
    outdated: indices whose workers are to be replaced. pauses: timers of workers to be started again.
    """

    def __init__(
        self,
        reactor: Reactor,
        workers: int,
        max_workers: int | None,
        drain_timeout: float,
        status: StatusAddress,
        name: str,
    ) -> None:
        self._reactor = reactor
        self._drain_timeout = drain_timeout
        self._status_address = status
        self._monitor = Monitor(reactor, self._members, self._state, name)
        self._name = name
        self._manager = ServiceManager()
        self._sockets = ListeningSockets()
        self._phase = _Phase.STARTING
        self._target = workers
        self._max_workers = max_workers
        self._starting: dict[int, _Worker] = {}
        self._serving: dict[int, _Worker] = {}
        self._draining: set[_Worker] = set()
        self._outdated: set[int] = set()
        self._restarting = False
        self._pauses: dict[int, Handle] = {}
        self._failures: Counter[int] = Counter()
        self._steered = False
        self._predecessor: Channel | None = None
        self._successor: Child | None = None
        self._successor_timer: Handle | None = None
        self._terminations = 0
        self._failure: SupervisorError | None = None

    def run(self, role: Role | None) -> None:
        """Supervise until there is no process left. role: "successor", or None."""
        if role is not None:
            self._predecessor = Channel.adopt(role.fd)
            self._inherit(self._predecessor)
            self._reactor.add_reader(self._predecessor, self._read_predecessor)
        handlers = {
            signal.SIGCHLD: self._reap,
            signal.SIGHUP: self._restart,
            signal.SIGINT: self._terminate,
            signal.SIGTERM: self._terminate,
            signal.SIGUSR2: self._replace,
            signal.SIGTTIN: self._add_worker,
            signal.SIGTTOU: self._remove_worker,
        }
        for signum, handler in handlers.items():
            self._reactor.add_signal_handler(signum, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
        if self._manager.watchdog is not None:
            self._pat(self._manager.watchdog / 2)
        try:
            self._status_address.bind()
            if role is None:
                self._status_address.serve(self._monitor.collect, self._name)
            self._reactor.call_soon(self._advance)
            self._reactor.run()
        finally:
            for worker in self._all():
                worker.child.process.kill()
                worker.child.process.wait()
                worker.child.channel.close()
            self._sockets.close(remove=self._owns_files())
            self._status_address.close(remove=self._owns_files())
            self._monitor.close()
            if self._predecessor is not None:
                self._predecessor.close()
            if self._successor is not None:
                self._successor.channel.close()
        if self._failure is not None:
            raise self._failure

    def _pat(self, interval: float) -> None:
        self._manager.notify("WATCHDOG=1")
        self._reactor.call_later(interval, self._pat, interval)

    # What the status page asks for

    def _members(self) -> list[Member]:
        phases = (
            ("starting", self._starting.values()),
            ("serving", self._serving.values()),
            ("draining", self._draining),
        )
        return [
            Member(worker.index, worker.child.pid, phase, worker.child.channel)
            for phase, workers in phases
            for worker in workers
        ]

    def _state(self) -> State:
        phase = {
            _Phase.STARTING: Phase.STARTING,
            _Phase.RUNNING: Phase.RUNNING,
            _Phase.ENDING: Phase.DRAINING,
        }[self._phase]
        if phase is Phase.RUNNING and self._successor is not None:
            phase = Phase.REPLACING
        elif phase is Phase.RUNNING and self._restarting:
            phase = Phase.RESTARTING
        waiting = self._outdated | (self._starting.keys() & self._serving.keys())
        return State(phase, self._target, self._target - len(waiting) if self._restarting else 0)

    def _all(self) -> list[_Worker]:
        return [*self._starting.values(), *self._serving.values(), *self._draining]

    def _owns_files(self) -> bool:
        return self._predecessor is None and self._successor is None

    # The one place that starts processes, and sees that something is complete

    def _advance(self) -> None:
        self._status_address.refresh()
        if self._phase is _Phase.ENDING:
            if not self._all():
                self._reactor.stop()
            return
        first_alone = self._phase is _Phase.STARTING and not self._serving  # what is wrong is said once
        for index in range(1 if first_alone else self._target):
            if not any(index in known for known in (self._starting, self._serving, self._pauses)):
                self._start(index)
        if not self._starting and self._outdated:
            self._start(min(self._outdated))
        complete = len(self._serving) >= self._target and not self._starting
        if complete and self._phase is _Phase.STARTING:
            self._started()
        elif complete and self._restarting:
            self._restarting = False
            self._sockets.retain(set().union(*(worker.keys for worker in self._serving.values())))
            log.info("all workers are restarted")
            self._manager.ready(self._status())

    def _started(self) -> None:
        self._phase = _Phase.RUNNING
        for name in self._sockets.names():
            log.info("listening on %s", name)
        if self._predecessor is None:
            self._manager.ready(self._status())
            return
        ends = {index: _take_over(worker) for index, worker in self._serving.items()}
        made = {index: end for index, end in ends.items() if end is not None}
        self._predecessor.send("ready", [end.fileno() for end in made.values()], indices=list(made))
        for end in made.values():
            end.close()

    def _status(self) -> str:
        return f"{self._target} worker{'s'[: self._target != 1]}"

    # Starting

    def _start(self, index: int) -> None:
        self._outdated.discard(index)
        try:
            child = Child.start("worker", index)
        except OSError as exc:
            self._not_ready(index, f"worker {index} can't be started: {exc}", None)
            return
        self._monitor.count(index, "starts")
        timer = self._reactor.call_later(START_TIMEOUT, child.process.kill)
        worker = self._starting[index] = _Worker(child, index, timer)
        self._reactor.add_reader(child.channel, self._read, worker)

    def _read(self, worker: _Worker) -> None:
        try:
            while (message := worker.child.channel.receive()) is not None:
                if message.kind == "bind":
                    self._bind(worker, message)
                elif message.kind == "ready":
                    self._ready(worker)
                elif message.kind == "snapshot":
                    self._monitor.answer(worker.index, worker.child.pid, message)
                elif message.kind == "draining" and worker in self._draining and self._terminations < 2:
                    self._limit_drain(worker)
        except EOFError:
            self._reactor.remove_reader(worker.child.channel)  # `_reap` comes to it

    def _bind(self, worker: _Worker, message: Message) -> None:
        request = Request.from_fields(message.fields)
        try:
            sockets = self._sockets.bind(request, worker.index)
        except (ListenError, AddressError) as exc:
            number = exc.errno if isinstance(exc, ListenError) else None
            worker.child.channel.send("bound", errno=number, error=getattr(exc, "strerror", str(exc)))
            return
        worker.keys.add(request.key)
        if not worker.child.channel.send("bound", [sock.fileno() for sock in sockets]):
            worker.child.process.kill()  # it would wait for the answer; `_reap` comes to it

    def _ready(self, worker: _Worker) -> None:
        index = worker.index
        worker.timer.cancel()
        worker.ready_at = self._reactor.time()
        old = self._serving.get(index)
        del self._starting[index]
        self._serving[index] = worker
        self._failures.pop(index, None)
        log.info("%s is ready", worker)
        self._monitor.began(worker.child.pid)
        if old is not None:
            self._drain(old, _take_over(worker))
        if self._phase is _Phase.ENDING or index >= self._target:
            self._drain(self._serving.pop(index))
            self._close_sockets_when_unused()
        elif self._steered and len(self._serving) == self._target:
            self._sockets.steer(self._target)
        self._advance()

    def _not_ready(self, index: int, why: str, status: int | None) -> None:
        """Decide what follows from a worker that did not start."""
        self._monitor.count(index, "failures")
        if self._phase is _Phase.ENDING:
            self._close_sockets_when_unused()
            return
        if self._phase is _Phase.STARTING:
            self._give_up(why, status)
        elif index in self._serving:
            log.error("%s: the restart is abandoned, the old workers go on", why)
            self._outdated.clear()
            self._restarting = False
            self._manager.ready(self._status())
        elif index >= self._target:
            pass  # it is not wanted any more
        else:
            self._try_again(index, why, status)

    def _try_again(self, index: int, why: str, status: int | None) -> None:
        self._failures[index] += 1
        if self._failures[index] == _MOST_FAILURES:
            self._give_up(f"{why}, {_MOST_FAILURES} times in a row", status)
            return
        pause = min(_FIRST_PAUSE * 2 ** (self._failures[index] - 1), _LAST_PAUSE)
        log.error("%s: trying again in %g s", why, pause)
        self._pause(index, pause)

    def _pause(self, index: int, pause: float) -> None:
        self._pauses[index] = self._reactor.call_later(pause, self._end_pause, index)

    def _end_pause(self, index: int) -> None:
        del self._pauses[index]
        self._advance()

    # Ends of processes

    def _reap(self) -> None:
        for worker in self._all():
            how = worker.child.end()
            if how is not None:
                self._ended(worker, how)
        successor = self._successor
        if successor is not None and self._phase is not _Phase.ENDING:
            how = successor.end()
            if how is not None:
                self._successor_failed(successor, how)
        self._advance()

    def _ended(self, worker: _Worker, how: str) -> None:
        index = worker.index
        worker.timer.cancel()
        self._reactor.remove_reader(worker.child.channel)
        self._read_last(worker)
        worker.child.channel.close()
        if worker in self._draining:
            self._draining.discard(worker)
            log.log(logging.ERROR if "killed" in how else logging.INFO, "%s has drained: it %s", worker, how)
        elif self._serving.get(index) is worker:
            del self._serving[index]
            if index >= self._target or self._phase is _Phase.ENDING:
                return
            log.error("%s %s: another is started", worker, how)
            self._monitor.count(index, "failures")
            if self._reactor.time() - worker.ready_at < _SHORT_LIFE:
                self._pause(index, _SHORT_LIFE_PAUSE)
        else:
            del self._starting[index]
            status = worker.child.process.returncode
            self._not_ready(index, f"{worker} {how} before it was ready", status if status > 0 else None)

    def _read_last(self, worker: _Worker) -> None:
        """Read what a worker has counted until its end; it asks for nothing more."""
        try:
            while (message := worker.child.channel.receive()) is not None:
                if message.kind == "snapshot":
                    self._monitor.answer(worker.index, worker.child.pid, message)
        except EOFError:
            pass  # that is the end
        lost = self._monitor.ended(worker.child.pid)
        if lost and self._status_address.is_served():
            log.warning("%s: the status page lacks what it counted in its last %.1f s", worker, lost)

    def _drain(self, worker: _Worker, end: socket.socket | None = None) -> None:
        """Tell a worker to serve what is in its queue, and end. end: of the stream to the next worker."""
        if self._serving.get(worker.index) is worker:
            del self._serving[worker.index]
        self._draining.add(worker)
        self._limit_drain(worker)
        if not worker.child.channel.send("drain", [] if end is None else [end.fileno()]):
            worker.child.process.terminate()  # it drains, and hands nothing over
        if end is not None:
            end.close()

    def _limit_drain(self, worker: _Worker) -> None:
        """Count the time of a drain anew: what comes before it has as much."""
        worker.timer.cancel()
        worker.timer = self._reactor.call_later(self._drain_timeout + _MARGIN, worker.child.process.kill)

    def _give_up(self, why: str, status: int | None) -> None:
        self._failure = SupervisorError(why, status)
        self._end("failed")

    # Signals

    def _restart(self) -> None:
        """SIGHUP: replace all workers, one by one."""
        if self._phase is not _Phase.RUNNING:
            log.warning("SIGHUP is ignored: the supervisor is %s", self._phase.value)
            return
        log.info("restarting the workers, one by one")
        self._manager.reloading()
        self._restarting = True
        self._outdated = set(range(self._target))
        self._advance()

    def _add_worker(self) -> None:
        """SIGTTIN: one worker more."""
        if self._phase is not _Phase.RUNNING:
            log.warning("SIGTTIN is ignored: the supervisor is %s", self._phase.value)
            return
        if self._target == self._max_workers:
            log.warning("SIGTTIN is ignored: max_workers is %d", self._target)
            return
        self._steered = True
        self._sockets.steer(self._target)  # until the new one is ready
        self._target += 1
        log.info("%d workers from now on", self._target)
        self._advance()

    def _remove_worker(self) -> None:
        """SIGTTOU: one worker less."""
        if self._phase is not _Phase.RUNNING or self._target == 1:
            log.warning("SIGTTOU is ignored: the supervisor is %s, %s", self._phase.value, self._status())
            return
        self._steered = True
        self._target -= 1
        self._outdated.discard(self._target)
        if self._target in self._pauses:
            self._pauses.pop(self._target).cancel()
        self._sockets.steer(self._target)
        log.info("%s from now on", self._status())
        self._reactor.call_later(_LAST_HANDSHAKES, self._retire, self._target)

    def _retire(self, index: int) -> None:
        """End the worker of an index that gets no new connections any more."""
        if index < self._target or self._phase is not _Phase.RUNNING:
            return  # one more was wanted again
        self._sockets.close_from(index)
        worker = self._serving.get(index)
        if worker is not None:
            self._drain(worker)

    def _terminate(self) -> None:
        """SIGINT, SIGTERM: drain; a second one ends everything at once."""
        self._terminations += 1
        if self._terminations == 1:
            if self._phase is not _Phase.ENDING:
                self._end("draining")
            return
        self._failure = self._failure or SupervisorError("stopped at once by a second signal")
        for worker in self._all():
            worker.child.channel.send("stop")
            worker.timer.cancel()
            worker.timer = self._reactor.call_later(_STOP_TIMEOUT, worker.child.process.kill)

    def _end(self, status: str) -> None:
        """Drain all workers; `_advance` ends the loop when they have ended."""
        self._phase = _Phase.ENDING
        log.info("draining the workers, for %g s at most", self._drain_timeout)
        self._manager.stopping(status)
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()
        if self._successor is not None:
            self._successor.process.kill()
            self._successor.process.wait()
            self._forget_successor()
        for worker in list(self._serving.values()):
            self._drain(worker)
        self._close_sockets_when_unused()
        self._reactor.call_soon(self._advance)

    def _close_sockets_when_unused(self) -> None:
        # The workers that drain have the last descriptors then, and close them when their queues are empty.
        if self._phase is _Phase.ENDING and not self._starting:
            self._sockets.close(remove=self._owns_files())

    # Replacing the supervisor

    def _replace(self) -> None:
        """SIGUSR2: start the program anew, and give it the listening sockets."""
        if self._phase is not _Phase.RUNNING or self._successor is not None:
            busy = "another one is being started" if self._successor else f"it is {self._phase.value}"
            log.warning("SIGUSR2 is refused: the supervisor can't be replaced now, %s", busy)
            return
        try:
            successor = Child.start("successor")
        except OSError as exc:
            log.error("the supervisor can't be replaced: %s", exc)  # noqa: TRY400 - one line, with the cause
            return
        log.info("process %d is to replace the supervisor", successor.pid)
        self._successor = successor
        self._successor_timer = self._reactor.call_later(START_TIMEOUT, successor.process.kill)
        fields, descriptors = self._status_address.exported()
        sent = [successor.channel.send("queue", fds, **fields) for fields, fds in self._sockets.exported()]
        sent.append(successor.channel.send("status address", descriptors, **fields))
        if not (all(sent) and successor.channel.send("begin", target=self._target, steered=self._steered)):
            successor.process.kill()  # it would lack a socket; `_reap` comes to it
        self._reactor.add_reader(successor.channel, self._read_successor, successor)

    def _read_successor(self, successor: Child) -> None:
        try:
            while (message := successor.channel.receive()) is not None:
                if message.kind == "ready":
                    self._replaced(successor, message)
                elif message.kind == "status":
                    self._monitor.report_to_successor()
        except EOFError:
            self._reactor.remove_reader(successor.channel)  # `_reap` comes to it

    def _replaced(self, successor: Child, message: Message) -> None:
        """Drain, and give up the sockets: the successor is ready."""
        if successor.end() is not None:
            for fd in message.descriptors:
                os.close(fd)
            return  # it was, and has died since: `_reap` comes to it
        assert self._successor_timer is not None
        self._successor_timer.cancel()
        self._phase = _Phase.ENDING
        log.info("process %d has replaced the supervisor: draining the workers", successor.pid)
        self._manager.notify(f"MAINPID={successor.pid}")
        self._status_address.leave()
        self._monitor.hand_over(successor.channel)
        successor.channel.send("go")
        ends = {
            index: socket.socket(fileno=fd)
            for index, fd in zip(message.fields["indices"], message.descriptors, strict=True)
        }
        for worker in list(self._serving.values()):
            self._drain(worker, ends.pop(worker.index, None))
        for end in ends.values():
            end.close()
        for worker in self._starting.values():
            worker.child.process.kill()
        self._sockets.close(remove=False)
        self._advance()

    def _successor_failed(self, successor: Child, how: str) -> None:
        log.error(
            "process %d %s before it could replace the supervisor: nothing has changed", successor.pid, how
        )
        self._forget_successor()

    def _forget_successor(self) -> None:
        assert self._successor is not None
        assert self._successor_timer is not None
        self._successor_timer.cancel()
        self._reactor.remove_reader(self._successor.channel)
        self._successor.channel.close()
        self._successor = None

    def _inherit(self, predecessor: Channel) -> None:
        """Take the listening sockets of the supervisor that this one replaces."""
        while True:
            try:
                message = predecessor.receive(wait=True)
            except EOFError as exc:
                raise SupervisorError("the supervisor that was to be replaced has gone") from exc
            assert message is not None
            if message.kind == "begin":
                self._target = message.fields["target"]
                self._steered = message.fields["steered"]
                return
            if message.kind == "status address":
                self._status_address.take(message.fields["address"], message.descriptors)
                continue
            text, occurrence = message.fields["key"]
            self._sockets.take((text, occurrence), message.fields["spread"], message.descriptors)

    def _read_predecessor(self) -> None:
        """Go on alone: the supervisor of before has said so, or has gone."""
        assert self._predecessor is not None
        predecessor = self._predecessor
        try:
            while (message := predecessor.receive()) is not None and message.kind != "go":
                self._monitor.receive(message)
            if message is None:
                return
        except EOFError:
            log.info("the supervisor of before has gone")
        self._reactor.remove_reader(predecessor)
        self._predecessor = None
        self._monitor.follow(predecessor)
        self._status_address.serve(self._monitor.collect, self._name)
        log.info("process %d is the supervisor now", os.getpid())
        if self._phase is _Phase.RUNNING:
            self._manager.ready(self._status())


def _take_over(worker: _Worker) -> socket.socket | None:
    """Give a new worker one end of a stream, on which connections come; return the other, for the old one.

    None if the system allows no more sockets: then the old worker's connections are not handed over.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as exc:
        log.warning("%s takes no connections over: %s", worker, exc)
        return None
    with ours:
        if worker.child.channel.send("take_over", [ours.fileno()]):
            return theirs
    theirs.close()
    log.warning("%s takes no connections over: it can't be sent a message", worker)
    return None
