"""Taking live connections over from another process: the new one's side of `reactor.deploy.handover`."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

import attrs

from reactor.connection.closing import close_quietly
from reactor.connection.connection import Connection
from reactor.connection.handover import (
    Snapshot,
    make_protocol_of,
    own_settings,
    shut_down,
    socket_of,
    thaw,
)
from reactor.deploy.handover import BATCH, VERSION, Phase, Side, Transfer, TransferHandler, takes_over
from reactor.errors import HandoverError
from reactor.listening.listener import Listener, admit_taken_over, factory_of, settings_of
from reactor.reactor import Reactor

__all__ = ["TakeOver", "take_over"]

log = logging.getLogger("reactor")

# Seconds from the end of the messages to that of the pipe, or to its byte.
_DYING = 1.0


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
    chosen = reactor.listeners() if listeners is None else list(listeners)
    return TakeOver(reactor, channel, chosen, timeout, on_done)


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


class TakeOver(Side):
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

    _OTHER = "old"

    def __init__(
        self,
        reactor: Reactor,
        channel: socket.socket,
        listeners: list[Listener],
        timeout: float,
        on_done: TransferHandler | None,
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
            self._phase = Phase.ENDED
            self._say_taken()
        elif kind == "late":
            self._received[header["number"]].late = body
        elif kind == "serve" and self._phase in {Phase.ENDED, Phase.TAKEN}:
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
        if not takes_over(listener):
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
        if self._phase is Phase.ENDED and self._messages.is_clear():
            self._phase = Phase.TAKEN

    def _on_end(self, exc: OSError | None) -> None:
        if self._phase is Phase.TAKEN:
            self._serve()  # the old process has died after that
        elif self._pipe is None:
            self._fail(exc)
        elif self._phase is not Phase.DONE and self._ending is None:
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
        elif self._phase is Phase.TAKEN:
            self._serve()
        else:
            super()._time_out()

    def _serve(self) -> None:
        """Go on with the connections: all have their protocols before the first receives anything."""
        if self._serving:
            return
        self._serving, self._phase = True, Phase.TAKEN
        self._messages.close()
        self._start_timer()
        self._revive_some()

    def _revive_some(self) -> None:
        for number in list(islice(self._received, BATCH)):
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
        for _ in range(min(BATCH, len(self._revived))):
            thaw(*self._revived[0])
            self._revived.popleft()
        if self._revived:
            self._soon(self._thaw_some)
        else:
            self._finish(None)

    def _fail(self, exc: OSError | None) -> None:
        """Drop what was received: the old process goes on with it."""
        if self._phase in {Phase.TAKEN, Phase.DONE}:
            return
        self._abort(exc)

    def _recover(self, problem: HandoverError) -> None:
        """Drop what was received, if the old process can go on with it; else go on with what is whole."""
        if self._serving:
            self._end_reviving()
            self._soon(self._revive_some)
        elif self._phase is Phase.TAKEN:
            if self._messages.lost_input:  # bytes that the old process has written meanwhile, say
                for known in self._received.values():
                    shut_down(known.sock)
                self._serve()
        elif self._phase is not Phase.ENDED:
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
