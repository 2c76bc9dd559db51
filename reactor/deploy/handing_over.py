"""Handing live connections over to another process: the old one's side of `reactor.deploy.handover`."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from typing import Any

import attrs

from reactor.connection.handover import (
    Frozen,
    can_hand_over,
    cut,
    freeze,
    leave,
    socket_of,
    take_snapshot,
    thaw,
    written_since,
)
from reactor.deploy.handover import BATCH, VERSION, Phase, Side, Transfer, TransferHandler, takes_over
from reactor.errors import HandoverError
from reactor.listening.listener import Listener, settings_of
from reactor.reactor import Reactor

__all__ = ["HandOver", "hand_over"]

log = logging.getLogger("reactor")

#: Connections that were sent and not answered.
_WINDOW = 128


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
    return HandOver(reactor, channel, timeout, on_done)


@attrs.define(eq=False)
class _Sent:
    """A connection that was sent, and how many bytes of its queue were in the snapshot."""

    frozen: Frozen
    output: int


class HandOver(Side):
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

    _OTHER = "new"

    def __init__(
        self, reactor: Reactor, channel: socket.socket, timeout: float, on_done: TransferHandler | None
    ) -> None:
        super().__init__(reactor, channel, reactor.listeners(), timeout, on_done)
        self._candidates = [found for found in reactor.connections() if takes_over(found.listener)]
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
        if self._phase is not Phase.SENDING:
            return
        for _ in range(min(BATCH, len(self._to_freeze))):
            connection = self._to_freeze.popleft()
            if can_hand_over(connection):
                self._to_send.append(freeze(connection))
        if self._to_freeze:
            self._soon(self._freeze_some)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Send connections, as far as the channel and the window allow, and then the end of them."""
        if self._phase is Phase.TAKEN and self._messages.is_clear():
            self._finish(None)
        if self._phase is not Phase.SENDING or self._to_freeze:
            return
        for _ in range(BATCH):
            if not self._to_send or len(self._unanswered) >= _WINDOW or not self._messages.is_clear():
                break
            self._send(self._to_send.popleft())
        else:
            self._go_on_later()
        if not self._to_send:
            self._phase = Phase.ENDED
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
            case "taken" if self._phase is Phase.ENDED:
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
        self._phase = Phase.TAKEN
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
        if self._phase in {Phase.SENDING, Phase.ENDED}:
            self._messages.end_receiving()
        if self._phase is Phase.TAKEN:
            self._finish(None)  # the new process goes on without the last messages, if it lives
        elif self._phase is not Phase.DONE:
            self._abort(exc)

    def _recover(self, problem: HandoverError) -> None:
        """Go on here, if the new process can't have the connections; else give up what it may have.

        What can't be said to it any more, as which bytes were written since the snapshot, it must not miss in
        silence: the connection is cut for both.
        """
        if self._phase is Phase.ENDED and self._messages.lost_input:
            self._to_give = list(self._sent)
            self._phase = Phase.TAKEN  # what was lost may be "taken"
        if self._phase is not Phase.TAKEN:
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


def _give_notice(pipe: int) -> None:
    """Tell the new process, if it lives, that this one serves the connections again."""
    try:
        os.write(pipe, b"\0")
    except BrokenPipeError:
        pass  # it does not
