"""The worker's side: a reactor that listens on the supervisor's sockets, and ends after a drain.

    setup(reactor) -> "ready" -> serving -> "drain" -> [hand over] -> draining -> "snapshot" -> exit

A worker whose supervisor has gone drains as well: it reads the end of the channel.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NoReturn

from reactor.address import Address
from reactor.datagrams.opening import Opened, SocketSettings, adopt_shared
from reactor.deploy.channel import Channel, Message
from reactor.deploy.handing_over import hand_over
from reactor.deploy.handover import Transfer
from reactor.deploy.process import HANDLED, Role
from reactor.deploy.sockets import Request
from reactor.deploy.taking_over import take_over
from reactor.errors import ListenError
from reactor.listening.binding import SocketOption, UnixPath
from reactor.loop.system import KERNEL
from reactor.reactor import Reactor
from reactor.status.snapshot import take_snapshot

__all__ = ["Setup", "WorkerReactor", "run_worker"]

log = logging.getLogger("reactor")

#: Listens, on the reactor of a worker.
Setup = Callable[[Reactor], object]

#: Seconds after the deadline of a drain at which the kernel ends a worker that hangs.
_MARGIN = 1.0

# Seconds that a handover may take.
_HANDOVER = 10.0


class SupervisorGone(Exception):
    """The supervisor has ended while the worker waited for an answer."""


class WorkerReactor(Reactor):
    """A reactor whose sockets are bound, and kept, by the supervisor at the end of `channel`."""

    _shares_sockets = True

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._asked: Counter[tuple[str, bool]] = Counter()
        self.unread: list[Message] = []  # came while it waited for an answer

    def _bind(
        self, address: Address, backlog: int, reuse_port: bool, options: Iterable[SocketOption]
    ) -> tuple[list[socket.socket], UnixPath | None]:
        descriptors = self._ask(address, options, backlog=backlog)
        sockets = [KERNEL.listening_socket(fd) for fd in descriptors]
        for sock in sockets:
            sock.setblocking(False)
        return sockets, None

    def _bind_datagram(self, address: Address, settings: SocketSettings) -> Opened:
        (fd,) = self._ask(address, settings.options, datagrams=True, spread=settings.reuse_port)
        return adopt_shared(KERNEL.datagram_socket(fd), settings)

    def _ask(
        self,
        address: Address,
        options: Iterable[SocketOption],
        *,
        datagrams: bool = False,
        backlog: int = 0,
        spread: bool = True,
    ) -> list[int]:
        """Return the descriptors of the sockets that the supervisor has bound to an address."""
        which = (str(address), datagrams)
        request = Request(which[0], self._asked[which], datagrams, backlog, spread, tuple(options))
        self._asked[which] += 1
        if not self._channel.send("bind", **request.to_fields()):
            raise SupervisorGone("the supervisor has gone")
        answer = self._answer()
        if "error" in answer.fields:
            raise ListenError(answer.fields["errno"], answer.fields["error"])
        return answer.descriptors

    def leave_datagrams(self) -> None:
        """Leave what comes on the shared sockets to the worker that replaces this one."""
        self._drains_shared = False

    def _answer(self) -> Message:
        while True:
            message = self._channel.receive(wait=True)
            assert message is not None
            if message.kind == "bound":
                return message
            self.unread.append(message)


class _Worker:
    """A worker process from `setup` to its exit."""

    def __init__(self, reactor: WorkerReactor, channel: Channel, drain_timeout: float) -> None:
        self._reactor = reactor
        self._channel = channel
        self._drain_timeout = drain_timeout
        self._draining = False

    def run(self, setup: Setup) -> None:
        for signum in HANDLED - {signal.SIGTERM}:
            signal.signal(signum, _ignore)  # SIG_IGN would be inherited by what the program starts
        self._reactor.add_signal_handler(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        setup(self._reactor)
        self._reactor.add_reader(self._channel, self._read)
        self._channel.send("ready")
        for message in self._reactor.unread:
            self._handle(message)
        try:
            self._reactor.run()
        finally:
            self.report(last=True)

    def _read(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._handle(message)
        except EOFError:
            self._reactor.remove_reader(self._channel)
            if not self._draining:
                log.warning("the supervisor has gone: draining")
                self._drain()

    def _handle(self, message: Message) -> None:
        ends = [socket.socket(fileno=fd) for fd in message.descriptors]
        if message.kind == "take_over":
            self._take_over(*ends)
        elif message.kind == "drain" and ends:
            self._hand_over(*ends)
        elif message.kind == "drain":
            self._drain()
        elif message.kind == "status":
            self.report()
        elif message.kind == "stop":
            self._reactor.stop()

    def report(self, *, last: bool = False) -> None:
        """Send a snapshot to the supervisor. last: of what was counted to the end."""
        self._channel.send("snapshot", snapshot=take_snapshot(self._reactor).to_json(), last=last)

    def _take_over(self, end: socket.socket) -> None:
        take_over(self._reactor, end)

    def _hand_over(self, end: socket.socket) -> None:
        timeout = min(_HANDOVER, self._drain_timeout / 2)
        hand_over(self._reactor, end, timeout=timeout, on_done=self._handed_over)

    def _handed_over(self, transfer: Transfer) -> None:
        """Drain what has stayed. The new worker serves the accept queues, if it has taken over."""
        log.info("connections: %s", transfer)
        if transfer.error is None:
            for listener in self._reactor.listeners():
                listener.close()
            self._reactor.leave_datagrams()
        self._drain()

    def _terminate(self) -> None:
        if self._draining:
            self._reactor.stop()
        else:
            self._drain()

    def _drain(self) -> None:
        """Serve what is in the accept queues, and end when all connections have, or the time is up."""
        if self._draining:
            return
        self._draining = True
        self._channel.send("draining")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._drain_timeout + _MARGIN)
        self._reactor.drain(self._drain_timeout)


def run_worker(role: Role, setup: Setup, drain_timeout: float) -> NoReturn:
    """Run `setup` and serve until the supervisor says otherwise; then exit with status 0.

    role: this process's. drain_timeout: seconds.
    """
    channel = Channel.adopt(role.fd)
    try:
        with WorkerReactor(channel) as reactor:
            _Worker(reactor, channel, drain_timeout).run(setup)
    except SupervisorGone:
        sys.exit(1)
    finally:
        channel.close()
    sys.exit(0)


def _ignore(signum: int, frame: object) -> None:
    """Leave it to the supervisor: the terminal, or a service manager, signals all processes."""
