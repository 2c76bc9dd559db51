"""Handing live connections over to another process, and taking them over.

The old process and the new one are joined by a connected Unix stream socket. What they say, in order:

    old: begin      version, and the read end of a pipe
    old: connection its number, listener and snapshot, with its descriptor; at most `_WINDOW` unanswered
    new: received, or refused with the reason, in which case the old one goes on with it
    old: end        of the connections
    new: taken      it has them all, and goes on with them
    old: late       what was written on one since its snapshot
    old: serve      the numbers of those that ended meanwhile, and stay

All connections are frozen (see `reactor.connection.handover`) before the first leaves, so that those that
belong together, as the members of a room, are never served by two processes. Until "taken" is sent they are
the old process's, afterwards the new one's. The old one waits for it; if the time is up before, it first
shuts its end down for receiving: then either "taken" is there already, or the new process can't send it any
more and drops what it has. So there is one owner at each moment, whoever is killed.

If the old process dies before, the new one goes on with what it has. It must not if the old one has given
up, and serves them again: that one first writes a byte to the pipe, whose other end it holds.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any

import attrs

from reactor.connection.closing import close_quietly
from reactor.connection.connection import Connection
from reactor.connection.handover import (
    Frozen,
    Snapshot,
    can_hand_over,
    cut,
    freeze,
    leave,
    make_protocol_of,
    own_settings,
    shut_down,
    socket_of,
    take_snapshot,
    thaw,
    written_since,
)
from reactor.connection.interrupts import Step
from reactor.deploy.messages import Messages
from reactor.errors import HandoverError, UsageError
from reactor.listening.listener import (
    Listener,
    admit_taken_over,
    factory_of,
    hold_for_handover,
    settings_of,
)
from reactor.loop.timers import Handle
from reactor.options import check_callable, seconds
from reactor.reactor import Reactor

__all__ = ["HandOver", "TakeOver", "Transfer", "hand_over", "take_over"]

log = logging.getLogger("reactor")

#: The version of the messages. A process of another one refuses.
VERSION = 1

#: Connections that were sent and not answered.
_WINDOW = 128

# Connections handled in one go; the rest waits for the next tick.
_BATCH = 256

# Seconds from the end of the messages to that of the pipe, or to its byte.
_DYING = 1.0


@attrs.frozen(kw_only=True)
class Transfer:
    """How a handover ended.

    moved: the connections that went over. kept: those of listeners that the old process goes on with: over
        TLS, or of a protocol without `hand_over`. error: why nothing went over; None if it did.

    >>> str(Transfer(moved=3, kept=1))
    '3 handed over, 1 kept'
    """

    moved: int
    kept: int
    error: HandoverError | None = None

    def __str__(self) -> str:
        reason = "" if self.error is None else f": {self.error.strerror}"
        return f"{self.moved} handed over, {self.kept} kept{reason}"


#: Called when a handover has ended.
TransferHandler = Callable[[Transfer], object]


def hand_over(
    reactor: Reactor,
    channel: socket.socket,
    *,
    timeout: float = 10.0,
    on_done: TransferHandler | None = None,
) -> HandOver:
    """Hand the connections of all listeners over to the process at the other end of `channel`.

    Those in clear whose protocol has `hand_over` go; the others stay, and can be drained in `on_done`. Until
    then the listeners accept nothing, and afterwards only if nothing was handed over.
    channel: a connected Unix stream socket, which is closed at the end. The other process calls `take_over`.
        No third process must keep a copy of it, or it can't be seen that one of the two has died.
    timeout: seconds, after which all go on here.
    on_done: called with a `Transfer`; None logs it.
    `connection_lost` is called with `HandedOver` on those that went. Call this on the thread that drives the
    reactor. Raises TypeError, ValueError or UsageError for a wrong argument.
    """
    timeout = seconds("timeout", timeout, zero=True)
    check_callable("on_done", on_done, optional=True)
    _check_channel(channel)
    return HandOver(reactor, channel, timeout, on_done or _log)


def take_over(
    reactor: Reactor,
    channel: socket.socket,
    listeners: Iterable[Listener] | None = None,
    *,
    timeout: float = 10.0,
    on_done: TransferHandler | None = None,
) -> TakeOver:
    """Take over the connections that the process at the other end of `channel` hands over.

    Each goes to the listener with an address of the one that it came from, whose factory must have
    `take_over(connection, state)`; it returns the protocol. From the beginning of the transfer to its end the
    listeners accept nothing.
    channel: a connected Unix stream socket, which is closed at the end.
    listeners: None for all of the reactor.
    timeout: seconds until the transfer begins, and for it, after which nothing is taken over.
    on_done: called with a `Transfer`; None logs it.
    Call this on the thread that drives the reactor. Raises TypeError, ValueError or UsageError for a wrong
    argument.
    """
    timeout = seconds("timeout", timeout, zero=True)
    check_callable("on_done", on_done, optional=True)
    _check_channel(channel)
    chosen = reactor.listeners() if listeners is None else list(listeners)
    return TakeOver(reactor, channel, chosen, timeout, on_done or _log)


def _check_channel(channel: socket.socket) -> None:
    if channel.family != socket.AF_UNIX or channel.type != socket.SOCK_STREAM:
        raise UsageError(
            f"the channel must be a Unix stream socket, as of socket.socketpair(), not {channel}"
        )


def _log(transfer: Transfer) -> None:
    level = logging.INFO if transfer.error is None else logging.WARNING
    log.log(level, "connections: %s", transfer)


class _Phase(Enum):
    SENDING = "sending"  # the connections; those that were sent are with the old process still
    ENDED = "ended"  # "end" is sent: "taken" is awaited, or on its way
    TAKEN = "taken"  # they are the new process's; the last messages are on their way
    DONE = "done"


class _Side(ABC):
    """A side of a handover: its channel and listeners, its time, and its end.

    Each step goes on where an interrupt (KeyboardInterrupt, say) has left the one before: see `_interrupted`.
    """

    def __init__(
        self,
        reactor: Reactor,
        channel: socket.socket,
        listeners: list[Listener],
        timeout: float,
        on_done: TransferHandler,
    ) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._timeout = timeout
        self._on_done = on_done
        self._phase = _Phase.SENDING
        self._moved = 0
        self._ending: tuple[HandoverError | None] | None = None  # its error, while it is brought to its end
        self._pipe: int | None = None  # this side's end of that which shows whether the old process lives
        self._timer: Handle | None = None
        self._at_close: Handle | None = None
        self._messages = Messages(
            reactor,
            channel,
            on_message=self._on_message,
            on_end=partial(self._run, self._on_end),
            on_clear=self._on_clear,
            on_interrupt=self._interrupted,
        )

    def is_done(self) -> bool:
        """Return whether it has ended."""
        return self._phase is _Phase.DONE

    def cancel(self) -> None:
        """Go on as before, unless the new process has taken the connections over. Calls `on_done`."""
        self._run(self._fail, HandoverError(errno.ECANCELED, "the handover was cancelled"))

    # Steps: what the reactor calls

    def _run(self, step: Callable[..., object], *args: Any) -> None:
        with Step(self._interrupted):
            step(*args)

    def _soon(self, step: Callable[[], object]) -> None:
        self._reactor.call_soon(self._run, step)

    def _begin(self) -> None:
        self._messages.begin()
        self._start_timer()
        self._at_close = self._reactor.call_at_close(self.cancel)

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.call_later(self._timeout, self._run, self._time_out)

    def _time_out(self) -> None:
        self._fail(HandoverError(errno.ETIMEDOUT, f"not done within {self._timeout:g} s"))

    @abstractmethod
    def _on_message(self, header: dict[str, Any], body: bytes, descriptor: int | None) -> None:
        """Handle a message: again, if an interrupt came meanwhile."""

    @abstractmethod
    def _on_clear(self) -> None:
        """Go on: the kernel has all that was sent."""

    @abstractmethod
    def _on_end(self, exc: OSError | None) -> None:
        """Handle the end of the channel. exc: the error; None: the other side has closed it."""

    @abstractmethod
    def _fail(self, exc: OSError | None) -> None:
        """End the handover without effect, if that is possible still. exc: why."""

    def _interrupted(self, exc: BaseException) -> None:
        """Make up for a step in which an interrupt came."""
        self._messages.repeats = True
        if self._ending is not None:
            self._end()
        elif self._phase is not _Phase.DONE:
            name = type(exc).__name__
            self._recover(HandoverError(errno.EINTR, f"{name} came in the middle of it"))
            self._messages.go_on_later()

    @abstractmethod
    def _recover(self, problem: HandoverError) -> None:
        """Go on after an interrupt, which `problem` names, or end the handover."""

    # Its end

    def _hold_listeners(self, held: bool) -> None:
        for listener in self._listeners:
            hold_for_handover(listener, held)

    def _finish(self, error: HandoverError | None) -> None:
        if self._ending is None and self._phase is not _Phase.DONE:
            self._ending = (error,)
            self._end()

    def _end(self) -> None:
        """Release everything, and report: once, wherever an interrupt comes."""
        (error,), phase = self._ending or (None,), self._phase
        for handle in (self._timer, self._at_close):
            if handle is not None:
                handle.cancel()
        self._messages.close()
        self._release(error)
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
        report = self._report(error)
        called = False
        try:
            self._ending, self._phase = None, _Phase.DONE
            self._on_done((called := True) and report)  # in one line: no interrupt comes between the two
        except BaseException:
            if not called:
                self._ending, self._phase = (error,), phase
            raise

    @abstractmethod
    def _release(self, error: HandoverError | None) -> None:
        """Release the connections and listeners of this side. More than once does no harm."""

    @abstractmethod
    def _report(self, error: HandoverError | None) -> Transfer:
        """Return what `on_done` is called with."""


@attrs.define(eq=False)
class _Sent:
    """A connection that was sent, and how many bytes of its queue were in the snapshot."""

    frozen: Frozen
    output: int


class HandOver(_Side):
    """A handover in progress, on the old process's side. Made by `hand_over`.

    >>> from reactor import Reactor
    >>> ours, theirs = socket.socketpair()  # `theirs` goes to the other process
    >>> with Reactor() as reactor, theirs:
    ...     handover = hand_over(reactor, ours, on_done=lambda transfer: print(transfer.moved))
    ...     handover.cancel()
    ...     handover.is_done()
    0
    True
    """

    def __init__(
        self, reactor: Reactor, channel: socket.socket, timeout: float, on_done: TransferHandler
    ) -> None:
        super().__init__(reactor, channel, reactor.listeners(), timeout, on_done)
        self._candidates = [found for found in reactor.connections() if _takes_over(found.listener)]
        self._to_freeze = deque(self._candidates)
        self._to_send: deque[Frozen] = deque()
        self._sent: dict[int, _Sent] = {}
        self._unanswered: set[int] = set()
        self._numbers = 0
        self._scheduled = False
        # When they are the new process's: the numbers of those whose late bytes are to be sent, of the one
        # whose are being sent, of those that have ended here, and whether "serve" is sent.
        self._to_give: list[int] = []
        self._giving: int | None = None
        self._kept: set[int] = set()
        self._served = False
        self._run(self._begin)

    def _begin(self) -> None:
        super()._begin()
        self._hold_listeners(True)
        alive, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            self._messages.send({"kind": "begin", "version": VERSION}, descriptor=alive)
        finally:
            os.close(alive)
        self._soon(self._freeze_some)

    def _freeze_some(self) -> None:
        if self._phase is not _Phase.SENDING:
            return
        for _ in range(min(_BATCH, len(self._to_freeze))):
            connection = self._to_freeze.popleft()
            if can_hand_over(connection):
                self._to_send.append(freeze(connection))
        if self._to_freeze:
            self._soon(self._freeze_some)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Send connections, as far as the channel and the window allow, and then the end of them."""
        if self._phase is _Phase.TAKEN and self._messages.is_clear():
            self._finish(None)
        if self._phase is not _Phase.SENDING or self._to_freeze:
            return
        for _ in range(_BATCH):
            if not self._to_send or len(self._unanswered) >= _WINDOW or not self._messages.is_clear():
                break
            self._send(self._to_send.popleft())
        else:
            self._go_on_later()
        if not self._to_send:
            self._phase = _Phase.ENDED
            self._messages.send({"kind": "end"})

    def _go_on_later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._next_tick)

    def _next_tick(self) -> None:
        self._scheduled = False
        self._go_on()

    def _send(self, frozen: Frozen) -> None:
        listener: Listener = frozen.connection.listener
        snapshot = take_snapshot(frozen, settings_of(listener))
        if snapshot is None:
            thaw(frozen.connection)
            return
        number = self._numbers = self._numbers + 1
        header, body = snapshot.to_message()
        header |= {"kind": "connection", "number": number, "listener": [str(at) for at in listener.addresses]}
        self._sent[number] = _Sent(frozen, len(snapshot.output))
        self._unanswered.add(number)
        self._messages.send(header, body, socket_of(frozen.connection).fileno())

    def _on_message(self, header: dict[str, Any], body: bytes, descriptor: int | None) -> None:
        match header["kind"]:
            case "received":
                self._unanswered.discard(header["number"])
            case "refused":
                self._unanswered.discard(header["number"])
                refused = self._sent.pop(header["number"], None)
                if refused is not None:
                    connection = refused.frozen.connection
                    log.warning("%s is kept: the new process has refused it: %s", connection, header["why"])
                    thaw(connection)
            case "taken" if self._phase is _Phase.ENDED:
                self._give_up_all()
            case "abort":
                self._messages.close()
                self._fail(HandoverError(errno.ECONNABORTED, f"the new process says: {header['why']}"))
        self._go_on()

    def _on_clear(self) -> None:
        self._go_on()

    def _on_end(self, exc: OSError | None) -> None:
        self._fail(exc)

    def _give_up_all(self) -> None:
        """Give up what the new process has taken over: in one go, so that nothing is written in between."""
        self._to_give = list(self._sent)
        self._phase = _Phase.TAKEN
        self._start_timer()
        self._give_up()

    def _give_up(self) -> None:
        while self._to_give:
            number = self._to_give[-1]
            sent = self._sent[number]
            late = written_since(sent.frozen, sent.output)
            if late is None:
                self._kept.add(number)
            elif late:
                self._giving = number
                self._messages.send({"kind": "late", "number": number}, late)
            self._to_give.pop()
            self._giving = None
        if not self._served:
            self._messages.send({"kind": "serve", "kept": list(self._kept)})
            self._served = True
        for number in self._kept:
            thaw(self._sent[number].frozen.connection)
        self._moved = len(self._sent) - len(self._kept)
        for number, sent in self._sent.items():
            if number not in self._kept:
                leave(sent.frozen.connection)

    def _fail(self, exc: OSError | None) -> None:
        """Go on with all connections here, unless the new process has said that it has taken them over."""
        if self._phase in {_Phase.SENDING, _Phase.ENDED}:
            self._messages.end_receiving()
        if self._phase is _Phase.TAKEN:
            self._finish(None)  # the new process goes on without the last messages, if it lives
        elif self._phase is not _Phase.DONE:
            problem = exc if isinstance(exc, HandoverError) else _lost(exc, "new")
            self._messages.send({"kind": "abort", "why": problem.strerror})
            self._finish(problem)

    def _recover(self, problem: HandoverError) -> None:
        """Go on here, if the new process can't have the connections; else give up what it may have.

        What can't be said to it any more, as which bytes were written since the snapshot, it must not miss in
        silence: the connection is cut for both.
        """
        if self._phase is _Phase.ENDED and self._messages.lost_input:
            self._to_give = list(self._sent)
            self._phase = _Phase.TAKEN  # what was lost may be "taken"
        if self._phase is not _Phase.TAKEN:
            self._fail(problem)
            return
        if self._giving is not None:
            self._cut(self._giving)
        if self._messages.lost_output and not self._served:
            for number in self._to_give:
                sent = self._sent[number]
                if written_since(sent.frozen, sent.output) != b"":
                    self._cut(number)
            for number in self._kept:
                self._cut(number)
            self._served = True
        self._to_give = [number for number in self._to_give if number not in self._kept]
        self._give_up()
        self._soon(self._go_on)

    def _cut(self, number: int) -> None:
        """End a connection for its peer and for both processes."""
        connection = self._sent[number].frozen.connection
        self._kept.add(number)
        cut(connection)

    def _release(self, error: HandoverError | None) -> None:
        if error is not None and self._pipe is not None:
            _give_notice(self._pipe)
        for connection in self._candidates:
            thaw(connection)
        self._to_freeze.clear()
        self._to_send.clear()
        self._sent.clear()
        if error is not None:
            self._hold_listeners(False)

    def _report(self, error: HandoverError | None) -> Transfer:
        kept = sum(
            connection.listener is not None and not connection.is_closing()
            for connection in self._reactor.connections()
        )
        return Transfer(moved=self._moved, kept=kept, error=error)


@attrs.define(eq=False)
class _Received:
    """A connection that was received: not served yet. late: what was written on it since the snapshot."""

    listener: Listener
    sock: socket.socket
    snapshot: Snapshot
    late: bytes = b""

    def whole(self) -> Snapshot:
        """Return the snapshot with what was written since."""
        if not self.late:
            return self.snapshot
        return attrs.evolve(self.snapshot, output=self.snapshot.output + self.late)


class TakeOver(_Side):
    """A handover in progress, on the new process's side. Made by `take_over`.

    >>> from reactor import Reactor
    >>> ours, theirs = socket.socketpair()  # `theirs` goes to the other process
    >>> with Reactor() as reactor, theirs:
    ...     handover = take_over(reactor, ours, on_done=lambda transfer: print(transfer.moved))
    ...     handover.is_done()
    ...     handover.cancel()
    False
    0
    """

    def __init__(
        self,
        reactor: Reactor,
        channel: socket.socket,
        listeners: list[Listener],
        timeout: float,
        on_done: TransferHandler,
    ) -> None:
        super().__init__(reactor, channel, listeners, timeout, on_done)
        self._by_address = {str(at): listener for listener in listeners for at in listener.addresses}
        self._received: dict[int, _Received] = {}
        self._reviving: socket.socket | None = None  # that of the one in the works
        self._revived: deque[tuple[Connection, Snapshot]] = deque()
        self._refused = 0
        self._serving = False
        self._run(self._begin)

    def _on_message(self, header: dict[str, Any], body: bytes, descriptor: int | None) -> None:
        kind = header["kind"]
        if kind == "begin" and descriptor is not None:
            self._begun(header, descriptor)
        elif kind == "abort":
            self._fail(HandoverError(errno.ECONNABORTED, f"the old process says: {header['why']}"))
        elif kind == "connection" and descriptor is not None:
            self._receive(header, Snapshot.from_message(header, body), socket.socket(fileno=descriptor))
        elif kind == "end" and self._pipe is not None:
            self._phase = _Phase.ENDED
            self._say_taken()
        elif kind == "late":
            self._received[header["number"]].late = body
        elif kind == "serve" and self._phase in {_Phase.ENDED, _Phase.TAKEN}:
            for number in header["kept"]:
                kept = self._received.pop(number, None)
                if kept is not None:
                    close_quietly(kept.sock)
            self._serve()

    def _begun(self, header: dict[str, Any], pipe: int) -> None:
        if header["version"] != VERSION:
            os.close(pipe)
            problem = f"its messages are of version {header['version']}, and these of {VERSION}"
            self._fail(HandoverError(errno.EPROTO, problem))
            return
        self._pipe = pipe  # the read end; the old process has the other
        self._hold_listeners(True)
        self._start_timer()

    def _receive(self, header: dict[str, Any], snapshot: Snapshot, sock: socket.socket) -> None:
        number = header["number"]
        sock.setblocking(False)
        listener, problem = self._listener_for(header["listener"], snapshot)
        if listener is None:
            close_quietly(sock)
            self._refused += 1
            self._messages.send({"kind": "refused", "number": number, "why": problem})
        else:
            self._received[number] = _Received(listener, sock, snapshot)
            self._messages.send({"kind": "received", "number": number})

    def _listener_for(self, addresses: list[str], snapshot: Snapshot) -> tuple[Listener | None, str]:
        """Return the listener for a connection; if there is none, why."""
        listener = next((self._by_address[at] for at in addresses if at in self._by_address), None)
        if listener is None:
            return None, f"nothing listens on {', '.join(addresses)}"
        if not _takes_over(listener):
            return None, f"the factory of {listener} has no take_over"
        try:
            own_settings(snapshot, settings_of(listener))
        except ValueError as exc:
            return None, str(exc)
        return listener, ""

    def _say_taken(self) -> None:
        """Say that they are all here; more than once changes nothing."""
        self._messages.send({"kind": "taken"})
        self._on_clear()

    def _on_clear(self) -> None:
        # The kernel has "taken": from here on they are this process's.
        if self._phase is _Phase.ENDED and self._messages.is_clear():
            self._phase = _Phase.TAKEN

    def _on_end(self, exc: OSError | None) -> None:
        if self._phase is _Phase.TAKEN:
            self._serve()  # the old process has died after that
        elif self._pipe is None:
            self._fail(exc)
        elif self._phase is not _Phase.DONE and self._ending is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._reactor.call_later(_DYING, self._run, self._fail, exc)
            self._reactor.add_reader(self._pipe, self._run, self._learn_fate, self._pipe, exc)

    def _learn_fate(self, pipe: int, exc: OSError | None) -> None:
        self._reactor.remove_reader(pipe)
        if os.read(pipe, 1):
            self._fail(exc)
        else:
            log.warning("the old process has died in a handover: going on with what it has sent")
            self._serve()

    def _time_out(self) -> None:
        if self._serving:
            self._start_timer()
            self._revive_some()
        elif self._phase is _Phase.TAKEN:
            self._serve()
        else:
            super()._time_out()

    def _serve(self) -> None:
        """Go on with the connections: all have their protocols before the first receives anything."""
        if self._serving:
            return
        self._serving, self._phase = True, _Phase.TAKEN
        self._messages.close()
        self._start_timer()
        self._revive_some()

    def _revive_some(self) -> None:
        for number in list(islice(self._received, _BATCH)):
            self._revive(self._received.pop(number))
        if self._received:
            self._soon(self._revive_some)
        else:
            self._thaw_some()

    def _revive(self, known: _Received) -> None:
        self._reviving, snapshot = known.sock, known.whole()
        try:
            connection = admit_taken_over(known.listener, known.sock, snapshot)
        except OSError as exc:
            self._reactor.report(exc, f"taking over a connection of {known.listener}")
        else:
            self._moved += 1
            self._revived.append((connection, snapshot))
            make_protocol_of(connection, snapshot, factory_of(known.listener))
        self._reviving = None

    def _thaw_some(self) -> None:
        for _ in range(min(_BATCH, len(self._revived))):
            thaw(*self._revived[0])
            self._revived.popleft()
        if self._revived:
            self._soon(self._thaw_some)
        else:
            self._finish(None)

    def _fail(self, exc: OSError | None) -> None:
        """Drop what was received: the old process goes on with it."""
        if self._phase in {_Phase.TAKEN, _Phase.DONE}:
            return
        problem = exc if isinstance(exc, HandoverError) else _lost(exc, "old")
        self._messages.send({"kind": "abort", "why": problem.strerror})
        self._finish(problem)

    def _recover(self, problem: HandoverError) -> None:
        """Drop what was received, if the old process can go on with it; else go on with what is whole."""
        if self._serving:
            self._end_reviving()
            self._soon(self._revive_some)
        elif self._phase is _Phase.TAKEN:
            if self._messages.lost_input:  # bytes that the old process has written meanwhile, say
                for known in self._received.values():
                    shut_down(known.sock)
                self._serve()
        elif self._phase is not _Phase.ENDED:
            self._fail(problem)
        elif not self._messages.lost_output:
            self._say_taken()
        # else it may be said, or not: the old process shows it

    def _end_reviving(self) -> None:
        """End the connection that was being revived."""
        sock, self._reviving = self._reviving, None
        if sock is None:
            return
        for connection in self._reactor.connections():
            if socket_of(connection) is sock:
                connection.abort()
        close_quietly(sock)

    def _release(self, error: HandoverError | None) -> None:
        if self._pipe is not None:
            self._reactor.remove_reader(self._pipe)
        for known in self._received.values():
            close_quietly(known.sock)
        self._received.clear()
        self._hold_listeners(False)

    def _report(self, error: HandoverError | None) -> Transfer:
        return Transfer(moved=self._moved, kept=self._refused, error=error)


def _takes_over(listener: Listener | None) -> bool:
    return listener is not None and hasattr(factory_of(listener), "take_over")


def _lost(exc: OSError | None, side: str) -> HandoverError:
    reason = "" if exc is None else f": {exc.strerror or exc}"
    problem = HandoverError(errno.ECONNRESET, f"the {side} process has ended the handover{reason}")
    problem.__cause__ = exc
    return problem


def _give_notice(pipe: int) -> None:
    """Tell the new process, if it lives, that this one serves the connections again."""
    try:
        os.write(pipe, b"\0")
    except BrokenPipeError:
        pass  # it does not
