"""A handover of live connections from one process to another: the conversation, and what both sides do alike.

The old process and the new one are joined by a connected Unix stream socket. What they say, in order:

    old: begin      version, and the read end of a pipe
    old: connection its number, listener and snapshot, with its descriptor; a limited number is unanswered
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
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import attrs

from reactor.connection.interrupts import Step
from reactor.deploy.messages import Messages
from reactor.errors import HandoverError, UsageError
from reactor.listening.listener import Listener, factory_of, hold_for_handover
from reactor.loop.timers import Handle
from reactor.options import check_callable, seconds
from reactor.reactor import Reactor

__all__ = ["BATCH", "VERSION", "Phase", "Side", "Transfer", "TransferHandler", "takes_over"]

log = logging.getLogger("reactor")

#: The version of the messages. A process of another one refuses.
VERSION = 1

#: Connections handled in one go; the rest waits for the next tick.
BATCH = 256


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


class Phase(Enum):
    """How far a handover has come."""

    SENDING = "sending"  # the connections; those that were sent are with the old process still
    ENDED = "ended"  # "end" is sent: "taken" is awaited, or on its way
    TAKEN = "taken"  # they are the new process's; the last messages are on their way
    DONE = "done"


class Side(ABC):
    """A side of a handover: its channel and listeners, its time, and its end.

    Each step goes on where an interrupt (KeyboardInterrupt, say) has left the one before: see `_interrupted`.
    """

    _OTHER: ClassVar[str]  # what the other process is called: "old" or "new"

    def __init__(
        self,
        reactor: Reactor,
        channel: socket.socket,
        listeners: list[Listener],
        timeout: float,
        on_done: TransferHandler | None,
    ) -> None:
        self._timeout = seconds("timeout", timeout, zero=True)
        check_callable("on_done", on_done, optional=True)
        _check_channel(channel)
        self._reactor = reactor
        self._listeners = listeners
        self._on_done = on_done or _log
        self._phase = Phase.SENDING
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
        return self._phase is Phase.DONE

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
        elif self._phase is not Phase.DONE:
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

    def _abort(self, exc: OSError | None) -> None:
        """End the handover without effect, and say so to the other process, if it lives. exc: as `_fail`."""
        problem = exc if isinstance(exc, HandoverError) else self._lost(exc)
        self._messages.send({"kind": "abort", "why": problem.strerror})
        self._finish(problem)

    def _lost(self, exc: OSError | None) -> HandoverError:
        reason = "" if exc is None else f": {exc.strerror or exc}"
        problem = HandoverError(errno.ECONNRESET, f"the {self._OTHER} process has ended the handover{reason}")
        problem.__cause__ = exc
        return problem

    def _finish(self, error: HandoverError | None) -> None:
        if self._ending is None and self._phase is not Phase.DONE:
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
            self._ending, self._phase = None, Phase.DONE
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


def _log(transfer: Transfer) -> None:
    level = logging.INFO if transfer.error is None else logging.WARNING
    log.log(level, "connections: %s", transfer)


def _check_channel(channel: socket.socket) -> None:
    if channel.family != socket.AF_UNIX or channel.type != socket.SOCK_STREAM:
        raise UsageError(
            f"the channel must be a Unix stream socket, as of socket.socketpair(), not {channel}"
        )


def takes_over(listener: Listener | None) -> bool:
    """Return whether the factory of a listener can take connections over; False for None."""
    return listener is not None and hasattr(factory_of(listener), "take_over")
