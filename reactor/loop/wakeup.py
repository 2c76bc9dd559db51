"""The wake-up: a pair of sockets that gets the loop out of its wait, from any thread or signal handler."""

from __future__ import annotations

import socket
from collections.abc import Callable

from reactor.errors import ReactorError
from reactor.loop.timers import Handle

__all__ = ["Wakeup"]

_DRAIN = 4096  # bytes read at a time; a burst is one byte, only a storm of signals leaves more


class Wakeup:
    """Becomes readable when `wake()` was called, on any thread.

    later: takes, when the loop has seen it, what is to run behind the callbacks that it was called for, and
        makes it readable no more.
    pair: its two sockets, connected; None: new ones.

    A burst of `wake()` writes one byte: who finds it written does nothing. The write never blocks, and
    a full buffer is as good as a wake-up. The loop watches `fileno()` for reading.
    """

    __slots__ = ("_draining", "_later", "_pending", "_receiver", "_sender")

    def __init__(
        self,
        later: Callable[[Handle], object],
        pair: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        self._later = later
        self._receiver, self._sender = pair or socket.socketpair()
        if self._receiver.family in (socket.AF_INET, socket.AF_INET6):
            self._refuse_strangers()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._pending = False
        self._draining = Handle(self._drain, ())
        self._draining.cancel()

    def _refuse_strangers(self) -> None:
        # Where there are no Unix sockets, socketpair() listens for a moment on loopback, and an
        # unpatched Python takes whoever connects first (CVE-2024-3219).
        receiver, sender = self._receiver, self._sender
        if receiver.getpeername() != sender.getsockname() or sender.getpeername() != receiver.getsockname():
            self.close()
            raise ReactorError("another process connected to the wake-up's socket pair: try again")

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._receiver.fileno()

    def signal_fileno(self) -> int:
        """The descriptor for `signal.set_wakeup_fd`."""
        return self._sender.fileno()

    def wake(self) -> None:
        """Get the loop out of its wait. From any thread, and from signal handlers."""
        if self._pending:
            return
        try:
            self._pending = True
            self._sender.send(b"\0")
        except BlockingIOError:
            pass  # full: the loop has something to read already
        except BaseException:
            self._pending = False  # an interrupt: who calls next is to wake the loop
            raise

    def on_event(self, events: int) -> None:
        """Schedule `_drain` by `later`, so that the byte is read after the callbacks it was sent for."""
        if self._draining.cancelled():  # not while one waits for its turn
            draining = Handle(self._drain, ())
            self._later(draining)
            self._draining = draining

    def _drain(self) -> None:
        try:
            self._receiver.recv(_DRAIN)
        except BlockingIOError:
            pass  # reported for what was read already
        finally:
            self._pending = False  # whatever comes: who calls next is to wake the loop

    def close(self) -> None:
        """Close both ends."""
        self._receiver.close()
        self._sender.close()
