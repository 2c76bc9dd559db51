"""Signals: signal handlers as callbacks of a loop. No signal is touched until a handler is added."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import attrs

from reactor.errors import UsageError
from reactor.loop.wakeup import Wakeup
from reactor.options import check_type

__all__ = ["Signals"]

#: The instances with handlers, which may be removed in any order.
_installed: list[Signals] = []


@attrs.define(eq=False, repr=False)
class _Handler:
    callback: Callable[..., object]
    args: tuple[Any, ...]
    previous: Any
    due: bool = False


class Signals:
    """The signals that a loop handles, with their previous handlers.

    Python runs its handlers between two bytecodes of the main thread; ours only schedules the callback on
    the loop. A signal that comes just before the loop waits would be seen too late: that is what the
    descriptor for `signal.set_wakeup_fd` is for, so its bytes are never read for their value, and a
    storm that fills it loses nothing. Signals of a kind that come before the callback ran are one, as
    they are to the kernel: signal(7), "Queueing and delivery semantics for standard signals".
    """

    def __init__(self, schedule: Callable[..., object], wakeup: Wakeup) -> None:
        self._schedule = schedule
        self._wakeup = wakeup
        self._orphaned = False
        self.previous_wakeup_fd = -1
        self._handlers: dict[int, _Handler] = {}

    def add(self, signum: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Run `callback(*args)` on the loop's thread when the signal comes, instead of its previous handler.

        Raises TypeError for a `signum` that is no int, UsageError off the main thread, ValueError or OSError
        for a signal that can't be handled.
        """
        check_type("signum", signum, int)
        if threading.current_thread() is not threading.main_thread():
            raise UsageError("signal handlers can only be set on the main thread: signal.signal's rule")
        known = self._handlers.get(signum)
        if known is not None:
            known.callback, known.args = callback, args
            return
        if not self._handlers:
            fd = self._wakeup.signal_fileno()
            self.previous_wakeup_fd = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
            _installed.append(self)
        try:
            previous = signal.signal(signum, self._on_signal)
        except (ValueError, OSError):
            if not self._handlers:
                self._restore_wakeup_fd()
            raise
        self._handlers[signum] = _Handler(callback, args, previous)

    def remove(self, signum: int) -> bool:
        """Restore the previous handler of the signal; return whether there was one of ours."""
        handler = self._handlers.pop(signum, None)
        if handler is None:
            return False
        above = next((other for other in _installed if other.has_replaced(signum, self._on_signal)), None)
        if above is not None:
            above.set_previous(signum, handler.previous)
        elif signal.getsignal(signum) == self._on_signal:
            # None: it was set from C, and can't be restored from Python.
            signal.signal(signum, signal.SIG_DFL if handler.previous is None else handler.previous)
        if not self._handlers:
            self._restore_wakeup_fd()
        return True

    def clear(self) -> bool:
        """Restore all previous handlers; return whether that was possible: on the main thread only.

        Elsewhere the handlers stay, with the wake-up descriptor. The first signal then restores the previous
        handler, and is raised again for it.
        """
        if self._handlers and threading.current_thread() is not threading.main_thread():
            self._orphaned = True
            return False
        for signum in list(self._handlers):
            self.remove(signum)
        return True

    def has_replaced(self, signum: int, previous: Callable[..., object]) -> bool:
        """Return whether `previous` is the handler that ours replaced."""
        handler = self._handlers.get(signum)
        return handler is not None and handler.previous == previous

    def set_previous(self, signum: int, previous: Any) -> None:
        """Set the handler that `remove` restores for the signal."""
        self._handlers[signum].previous = previous

    def _restore_wakeup_fd(self) -> None:
        _installed.remove(self)
        fd = self._wakeup.signal_fileno()
        above = next((other for other in _installed if other.previous_wakeup_fd == fd), None)
        if above is not None:
            above.previous_wakeup_fd = self.previous_wakeup_fd
            return
        found = signal.set_wakeup_fd(self.previous_wakeup_fd)
        if found != fd:
            signal.set_wakeup_fd(found)  # set by other code after ours

    def _on_signal(self, signum: int, frame: object) -> None:
        if self._orphaned:
            self.clear()
            self._wakeup.close()
            signal.raise_signal(signum)
            return
        handler = self._handlers.get(signum)
        if handler is not None and not handler.due:
            handler.due = True
            self._schedule(self._run, handler)

    @staticmethod
    def _run(handler: _Handler) -> None:
        handler.due = False
        handler.callback(*handler.args)
