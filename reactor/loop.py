"""The loop: wait, dispatch, run what is due. It knows descriptors and callbacks, and nothing of TCP."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from types import TracebackType
from typing import Any, Self

from reactor.errors import UsageError
from reactor.registry import FileDescriptorLike, Registry
from reactor.selector import default_selector
from reactor.signals import Signals
from reactor.timers import Handle, TimerHandle, TimerHeap
from reactor.wakeup import Wakeup

__all__ = ["ErrorHandler", "Loop"]

log = logging.getLogger("reactor")

#: What one tick handles at most of each kind, so that none starves the others. libuv and uvloop take
#: 1024 events a poll. Here what a tick has received and gathered should fit the processor's cache: with
#: 256 busy connections, 64 measured 4 to 9 % faster than 256, and 16 was slower again.
EVENTS_PER_TICK = 64
TIMERS_PER_TICK = 256
CALLBACKS_PER_TICK = 256

# epoll_wait(2) counts milliseconds in an int, 24 days at most; a wait that ends early does no harm.
_LONGEST_WAIT = 86400.0


ErrorHandler = Callable[[BaseException, str, Any], object]


class Loop:
    """One selector, one thread at a time, any number in a process.

    selector: where descriptors are registered; None takes the platform's `DefaultSelector`, which the
        loop then closes with itself.
    clock: seconds that never go back.
    on_error: called as `on_error(exception, callback, connection)` for each exception that leaves a
        callback, with the callback's name, and its connection or None. None logs it with its traceback.
    flush: takes, at the end of a tick's phase, the list of what its callbacks have left in `outbox`,
        and the tick's time.

    Every method may be called on the thread that drives the loop; those that may be called on others
    say so.
    """

    #: The time of this tick, in the clock's seconds.
    now: float
    #: Within a tick, what is to be handed to `flush` at its end; None outside of ticks.
    outbox: list[Any] | None

    def __init__(
        self,
        *,
        selector: BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_error: ErrorHandler | None = None,
        flush: Callable[[list[Any], float], None] = lambda outbox, now: None,
    ) -> None:
        self.registry = Registry(default_selector() if selector is None else selector)
        self.now = clock()
        self.outbox = None
        self._clock = clock
        self._on_error = on_error
        self._flush = flush
        self._timers = TimerHeap()
        self._ready: deque[Handle] = deque()
        self._from_threads: deque[Handle] = deque()
        self._driver: int | None = None
        self._stop_asked = False
        self._close_asked = False
        self._closed = False
        self._wakeup = Wakeup(self._take_from_threads)
        self._signals = Signals(self.call_soon_threadsafe, self._wakeup.signal_fileno())
        self.registry.register(self._wakeup.fileno(), EVENT_READ, self._wakeup)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Driving

    def run(self) -> None:
        """Drive the loop on this thread until `stop` or `close`.

        Raises UsageError if it is closed, or being driven already. KeyboardInterrupt and SystemExit
        pass through, and the loop can be run again after them.
        """
        self._enter()
        try:
            while not self._stop_asked:
                self._tick(None)
        finally:
            self._stop_asked = False
            self._leave()

    def run_once(self, timeout: float | None = 0) -> int:
        """Run one bounded tick on this thread and return how many events and callbacks it handled.

        timeout: seconds to wait for something to do; 0 does not wait, None waits for ever.
        Raises UsageError if the loop is closed, or being driven already.
        """
        self._enter()
        try:
            return self._tick(timeout)
        finally:
            self._stop_asked = False
            self._leave()

    def stop(self) -> None:
        """Let `run` return after the tick that it is in. From any thread, callback or signal handler.

        While the loop is not running, the next `run` returns at once.
        """
        self._stop_asked = True
        self._wake()

    def close(self) -> None:
        """Give back every descriptor and drop every callback; a loop that is running is stopped first.

        From any thread; more than once does nothing. What the loop was used for can't go on after it.
        """
        if self._driver is not None:
            self._close_asked = True
            self.stop()
        elif not self._closed:
            self._close()

    def is_closed(self) -> bool:
        """Return whether `close` has been done."""
        return self._closed

    def fileno(self) -> int:
        """Return a descriptor that is readable while a registered one has an event.

        Raises UsageError where the platform's selector has none. Timers do not show there:
        `next_timeout` tells of them.
        """
        self._check_open()
        selector = self.registry.selector
        fileno = getattr(selector, "fileno", None)
        if fileno is None:
            raise UsageError(f"{type(selector).__name__} has no descriptor: call run_once instead")
        number: int = fileno()
        return number

    def next_timeout(self) -> float | None:
        """Return the seconds until `run_once` has a timer or callback to run; None if only events can."""
        if self._ready or self.registry.leftover:
            return 0.0
        due = self._timers.next_due()
        return None if due is None else min(max(0.0, due - self._clock()), _LONGEST_WAIT)

    def time(self) -> float:
        """Return the time that `call_at` counts in, seconds. From any thread."""
        return self._clock()

    def _enter(self) -> None:
        self._check_open()
        if self._driver is not None:
            where = "this" if self._driver == threading.get_ident() else "another"
            raise UsageError(f"the reactor is being driven by {where} thread already")
        self._driver = threading.get_ident()
        self.outbox = []

    def _leave(self) -> None:
        outbox, self.outbox = self.outbox, None
        self._driver = None
        if outbox:
            self._flush(outbox, self.now)
        if self._close_asked:
            self.close()

    def _tick(self, timeout: float | None) -> int:
        registry = self.registry
        stale = registry.stale
        due = self._timers.next_due()
        if registry.leftover:
            events = registry.batch(registry.leftover, EVENTS_PER_TICK)
        else:
            if self._ready or self.outbox:  # a flush may call back, and that write
                timeout = 0
            elif due is not None:
                wait = min(max(0.0, due - self._clock()), _LONGEST_WAIT)
                timeout = wait if timeout is None else min(wait, timeout)
            if stale:
                stale.clear()
            events = registry.poll(timeout, EVENTS_PER_TICK)
            if len(events) > EVENTS_PER_TICK:
                events = registry.batch(events, EVENTS_PER_TICK)
        self.now = self._clock()

        handlers = registry.by_fd
        for fd, ready in events:
            if stale and fd in stale:
                continue
            if ready == 1:  # EVENT_READ, whose name would cost a look-up for each message
                handlers[fd].on_event(1)  # type: ignore[union-attr]
            elif asked := registry.fold(fd, ready):
                handlers[fd].on_event(asked)  # type: ignore[union-attr]
        handled = len(events)
        if self.outbox:
            self._flush_outbox()

        if due is not None and due <= self.now:
            handled += self._run_timers()
        if self._ready:
            handled += self._run_ready()
        if self.outbox:
            self._flush_outbox()
        return handled

    def _flush_outbox(self) -> None:
        outbox, self.outbox = self.outbox, []
        self._flush(outbox or [], self.now)

    def _run_timers(self) -> int:
        for count in range(TIMERS_PER_TICK):
            handle = self._timers.pop_due(self.now)
            if handle is None:
                return count
            self._run(handle)
        return TIMERS_PER_TICK

    def _run_ready(self) -> int:
        ready = self._ready
        count = min(len(ready), CALLBACKS_PER_TICK)  # what these callbacks add runs in the next tick
        for _ in range(count):
            self._run(ready.popleft())
        return count

    def _run(self, handle: Handle) -> None:
        taken = handle.take()
        if taken is None:
            return
        callback, args = taken
        self.call(callback, *args)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` now; an exception is reported, and does not come out."""
        try:
            callback(*args)
        except Exception as exc:
            self.report(exc, _name(callback))

    def report(self, exc: BaseException, callback: str, connection: Any = None) -> None:
        """Hand an exception that left a callback to `on_error`, or log it with its traceback.

        callback: the callback's name. connection: the connection that it was called for, or None.
        """
        if self._on_error is not None:
            try:
                self._on_error(exc, callback, connection)
                return
            except Exception:
                log.exception("on_error itself failed; what it was told of follows")
        subject = f"{callback} of {connection}" if connection is not None else callback
        log.error("exception in %s", subject, exc_info=exc)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the reactor is closed: make a new one")

    def _wake(self) -> None:
        try:
            self._wakeup.wake()
        except OSError:
            if not self._closed:
                raise

    def _close(self) -> None:
        for handle in list(self._ready):
            if isinstance(handle, _Notice):
                self._run(handle)
        self._closed = True
        self._signals.clear()
        self._ready.clear()
        self._from_threads.clear()
        self._timers = TimerHeap()
        self._wakeup.close()
        self.registry.close()

    # Callbacks

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Run `callback(*args)` in the next tick, after what was asked for before. Cancellable."""
        self._check_open()
        handle = Handle(callback, args)
        self._ready.append(handle)
        return handle

    def post_notice(self, callback: Callable[..., object], *args: Any) -> None:
        """As `call_soon`, for what must be told exactly once: `close` runs it if no tick did before."""
        self._ready.append(_Notice(callback, args))

    def notices_due(self) -> int:
        """Return how many notices have been posted and not run."""
        return sum(isinstance(handle, _Notice) for handle in self._ready)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Run `callback(*args)` in `delay` seconds, never earlier. Cancellable.

        Raises ValueError if `delay` is not a number.
        """
        return self.call_at(self._clock() + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Run `callback(*args)` when `time()` has reached `when`. Cancellable.

        Raises ValueError if `when` is not a number.
        """
        self._check_open()
        return self._timers.add(when, callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Handle:
        """As `call_soon`, from any thread or signal handler; gets the loop out of its wait.

        A burst of calls costs one system call.
        """
        self._check_open()
        handle = Handle(callback, args)
        self._from_threads.append(handle)
        self._wake()
        return handle

    def _take_from_threads(self) -> None:
        incoming = self._from_threads
        for _ in range(len(incoming)):
            self._ready.append(incoming.popleft())

    # Descriptors

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` whenever `fd`, a descriptor of your own, is readable.

        Another call for the same descriptor replaces the callback.
        Raises UsageError for a descriptor that belongs to a connection or listener, OSError or
        ValueError for one that can't be waited for.
        """
        self._check_open()
        self.registry.watch(fd, EVENT_READ, self.call, callback, args)

    def add_writer(self, fd: FileDescriptorLike, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` whenever `fd` is writable; else as `add_reader`."""
        self._check_open()
        self.registry.watch(fd, EVENT_WRITE, self.call, callback, args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """Undo `add_reader`, before the descriptor is closed; return whether there was a callback."""
        return self.registry.unwatch(fd, EVENT_READ)

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """Undo `add_writer`, before the descriptor is closed; return whether there was a callback."""
        return self.registry.unwatch(fd, EVENT_WRITE)

    # Signals

    def add_signal_handler(self, signum: int, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on the loop when signal `signum` comes, until it is removed or closed.

        What handled the signal before is put back then. On the main thread only.
        Raises UsageError on another thread, ValueError or OSError for a signal that can't be handled.
        """
        self._check_open()
        self._signals.add(signum, callback, args)

    def remove_signal_handler(self, signum: int) -> bool:
        """Put back what handled `signum` before; return whether there was a handler of this loop."""
        return self._signals.remove(signum)


class _Notice(Handle):
    """What `close` runs, and does not drop."""

    __slots__ = ()


def _name(callback: Callable[..., object]) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)
