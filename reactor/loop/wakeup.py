"""The wake-up: a pair of sockets by which any thread or signal handler ends the loop's wait."""

from __future__ import annotations

import socket
from collections.abc import Callable

from reactor.errors import ReactorError
from reactor.loop.timers import Handle

__all__ = ["Wakeup"]

_DRAIN = 4096  # bytes read at a time; a burst is one byte, only a storm of signals leaves more


class Wakeup:
    """A descriptor that becomes readable when `wake()` is called, on any thread.

    later: schedules the handle that reads the byte, behind the callbacks for which `wake` was called.
    pair: two connected sockets; None: new ones.

    A burst of `wake()` writes one byte: further calls do nothing until it is read. The write never blocks,
    and a full buffer is as good as a wake-up. The loop watches `fileno()` for reading.
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
        # unpatched Python accepts whatever connects first (CVE-2024-3219).
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
        """End the loop's wait. From any thread, and from signal handlers."""
        if self._pending:
            return
        try:
            self._pending = True
            self._sender.send(b"\0")
        except BlockingIOError:
            pass  # full: it is readable already
        except BaseException:
            self._pending = False  # an interrupt: the next call must wake the loop
            raise

    def on_event(self, events: int) -> None:
        """Schedule `_drain` by `later`, so that the byte is read after the callbacks it was sent for."""
        if self._draining.cancelled():  # unless it is scheduled already
            draining = Handle(self._drain, ())
            self._later(draining)
            self._draining = draining

    def _drain(self) -> None:
        try:
            self._receiver.recv(_DRAIN)
        except BlockingIOError:
            pass  # the event was of a byte that is already read
        finally:
            self._pending = False  # whatever happens: the next call must wake the loop

    def close(self) -> None:
        """Close both ends."""
        self._receiver.close()
        self._sender.close()
