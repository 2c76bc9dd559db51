"""The loop: wait, dispatch, run what is due. It knows descriptors and callbacks, and nothing of TCP."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

from reactor.errors import UsageError
from reactor.loop.alarm import Alarm, new_alarm
from reactor.loop.callbacks import SENDING, Callbacks, ErrorHandler
from reactor.loop.registry import FileDescriptorLike, Registry
from reactor.loop.selector import default_selector
from reactor.loop.signals import Signals
from reactor.loop.timers import Handle, TickTimes, TimerHeap
from reactor.loop.wakeup import Wakeup
from reactor.options import check_callable, number, seconds

__all__ = ["ErrorHandler", "Loop"]

Ts = TypeVarTuple("Ts")

#: What one tick handles at most of each kind, so that none starves the others. libuv and uvloop take
#: 1024 events a poll. Here what a tick has received and gathered should fit the processor's cache: with
#: 256 busy connections, 64 measured 4 to 9 % faster than 256, and 16 was slower again.
EVENTS_PER_TICK = 64

# The same where a budget is given: what was gathered is sent after the budget's end.
EVENTS_PER_SLICE = 16

# epoll_wait(2) counts milliseconds in an int, 24 days at most; a wait that ends early does no harm.
_LONGEST_WAIT = 86400.0

_NEVER = math.inf

T = TypeVar("T")


class Loop(Callbacks):
    """One selector, one thread at a time, any number in a process.

    selector: where descriptors are registered; None takes the platform's `DefaultSelector`, which the
        loop then closes with itself.
    clock: seconds that never go back.
    on_error: called as `on_error(exception, callback, connection)` for each exception that leaves a
        callback, with the callback's name, and its connection or None. None logs it with its traceback.
    slow_callback: seconds; a callback that takes longer is named in a warning. None: none is timed.
    debug: warn of calls from the wrong thread; needs time.
    flush: takes, at the end of a tick's phase, the list of what its callbacks have left in `outbox`,
        and the tick's time; returns how many bytes it sent.

    Every method may be called on the thread that drives the loop; those that may be called on others
    say so.
    """

    #: Within a tick, what is to be handed to `flush` at its end; None outside of ticks.
    outbox: list[Any] | None
    #: Counted by those who receive and send.
    bytes_received: int
    bytes_sent: int
    #: Turns of the loop, and the events, timers and callbacks that they handled.
    ticks: int
    events: int

    def __init__(
        self,
        *,
        selector: BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_error: ErrorHandler | None = None,
        slow_callback: float | None = None,
        debug: bool = False,
        flush: Callable[[list[Any], float], int] = lambda outbox, now: 0,
    ) -> None:
        if slow_callback is not None:
            slow_callback = seconds("slow_callback", slow_callback, zero=True)
        super().__init__(clock, on_error, slow_callback, debug=debug)
        self.bytes_received = self.bytes_sent = self.ticks = self.events = 0
        self.registry = Registry(default_selector() if selector is None else selector)
        self.outbox = None
        self.tick_times = TickTimes()
        self._flush = flush
        #: An interrupt may have left things half done: they are made whole before the next tick.
        self.unsure = False
        self._stop_asked = False
        self._close_asked = False
        self._at_close: list[Handle] = []
        self._alarm: Alarm | None = None
        self._alarm_due = _NEVER
        self._pid = os.getpid()
        #: The thread on which a host drives the loop, while one does: that is where it is closed.
        self.host: int | None = None
        with ExitStack() as undo:
            if selector is None:  # one that was given is still the caller's
                undo.callback(self.registry.close)
            self._wakeup = Wakeup(self._ready.append, self.system.socketpair())
            undo.callback(self._wakeup.close)
            self.registry.register(self._wakeup.fileno(), EVENT_READ, Wakeup.on_event, self._wakeup)
            undo.pop_all()
        self._signals = Signals(self.call_soon_threadsafe, self._wakeup)
        _loops.add(self)

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
        self._drive(self._run_until_stopped)

    def _run_until_stopped(self) -> None:
        while not self._stop_asked:
            self._tick(None)

    def run_once(self, timeout: float | None = 0, budget: float | None = None) -> int:
        """Run a step on this thread and return how many events and callbacks it handled.

        timeout: seconds to wait for something to do; 0 or less does not wait, None waits for ever.
        budget: seconds of work, from the end of the wait: it goes on while there is something to do, and
            returns after the callback with which they are over. What is left is for the next call; some of
            each kind, descriptors, timers and callbacks, is done in every one. None: one tick, which handles
            a bounded number of each.
        Raises UsageError if the loop is closed, or being driven already; ValueError for NaN, or for a budget
        below 0; TypeError for what is no number.
        """
        if budget is not None:
            budget = seconds("budget", budget, zero=True)
        if timeout is not None:
            timeout = min(max(0.0, number("timeout", timeout)), _LONGEST_WAIT)
        if budget is None:
            return self._drive(self._tick, timeout)
        return self._drive(self._run_slice, timeout, budget)

    def _drive(self, step: Callable[..., T], *args: Any) -> T:
        """Return what `step(*args)` returns, as the one who drives the loop meanwhile."""
        self._check_open()
        here = threading.get_ident()
        entered = 0
        try:
            try:
                if self._driver is None:
                    self._driver = entered = here  # one step: neither a thread nor an interrupt comes between
                else:
                    where = "this" if self._driver == here else "another"
                    raise UsageError(f"the reactor is being driven by {where} thread already")
                self.outbox = self.outbox or []  # what an interrupt has left
                if self.unsure:
                    self._recover()
                self.unsure = True
                result = step(*args)
                self.unsure = False
                return result
            finally:
                if entered:
                    self._driver = None  # before anything that an interrupt could come in
                    self._leave()
        except BaseException:
            if entered:
                self._driver = None
                self.unsure = True
            raise

    def _recover(self) -> None:
        """Make whole what an interrupt has left: everything is moved by an event or a timer again."""
        self.registry.recover()
        self._wakeup.wake()
        self._alarm_due = _NEVER

    def _run_slice(self, timeout: float | None, budget: float) -> int:
        total = handled = self._tick(timeout, budget)
        end = self.now + budget  # the wait is not counted
        while handled and not self._stop_asked and (left := end - self._clock()) > 0:
            handled = self._tick(0, left)
            total += handled
        return total

    def stop(self) -> None:
        """Let `run` return after the tick that it is in. From any thread, callback or signal handler.

        While the loop is not running, the next `run` returns at once.
        """
        self.check_process()
        self._stop_asked = True
        self._wake()

    def close(self) -> None:
        """Give back every descriptor and drop every callback; a loop that is running is stopped first.

        From any thread; more than once does nothing. What the loop was used for can't go on after it. While
        it is driven, or attached to a host, it is closed on that thread.
        """
        if self._closed:
            return
        here = threading.get_ident()
        if self._disowned:
            self._closed = True
            self._close_descriptors()
            self.registry.selector.close()
        elif self._driver is None and self.host in (None, here):
            self._driver = here  # no call between the question and this: no thread comes between
            try:
                self._close()
            finally:
                self._driver = None
        else:
            self._close_asked = True
            self.stop()
            if self._driver is None and self.host in (None, here):
                self.close()  # who drove it has left meanwhile, and may have looked before

    def is_closed(self) -> bool:
        """Return whether `close` has been done."""
        return self._closed

    def fileno(self) -> int:
        """Return a descriptor for the host's own selector: readable while `run_once(0)` has something to do.

        From the first call on the loop keeps it so, for what is asked for outside of ticks too. Whether
        timers show there as well, `timers_in_fileno` says.
        Raises UsageError where the platform's selector has none.
        """
        self._check_open()
        selector = self.registry.selector
        fileno = getattr(selector, "fileno", None)
        if fileno is None:
            raise UsageError(f"{type(selector).__name__} has no descriptor: call run_once instead")
        if not self._hosted:
            self._alarm = self._watched_alarm()
            self._hosted = True
        self._tell_host()  # each time: an interrupt may have come before the end of the last tick did
        number: int = fileno()
        return number

    def timers_in_fileno(self) -> bool:
        """Return whether `fileno` gets readable for timers too, by timerfd_create(2).

        Where it does not, the host is to call `run_once` after `next_timeout` seconds at the latest, and to
        ask for them anew whenever it has been readable, as it is when a timer is set outside of ticks.
        """
        self.fileno()
        return self._alarm is not None

    def next_timeout(self) -> float | None:
        """Return the seconds until `run_once` has a timer or callback to run; None if only events can."""
        if self._ready or self.registry.leftover or self.outbox:
            return 0.0
        due = self._timers.next_due()
        return None if due is None else min(max(0.0, due - self._clock()), _LONGEST_WAIT)

    def _tell_host(self) -> None:
        if self._driver is not None:
            return  # in a tick: its end does this
        if self._ready or self.registry.leftover or self.outbox:
            self._wake()
            return
        due = self._timers.next_due()
        if due is None or due >= self._alarm_due:
            return
        if self._alarm is None:
            self._wake()
        else:
            self._alarm.set(min(due - self._clock(), _LONGEST_WAIT))
        self._alarm_due = due

    def _watched_alarm(self) -> Alarm | None:
        alarm = new_alarm(self._forget_alarm)
        if alarm is not None:
            try:
                self.registry.register(alarm.fileno(), EVENT_READ, Alarm.on_event, alarm)
            except BaseException:
                alarm.close()
                raise
        return alarm

    def _forget_alarm(self) -> None:
        self._alarm_due = _NEVER

    def touch(self) -> None:
        """Bring `now` up to date outside of ticks: the host may call long after the last one."""
        if self.outbox is None:
            self.now = self._clock()

    def _leave(self) -> None:
        self._stop_asked = False
        outbox, self.outbox = self.outbox, None
        if outbox:
            sent = self._flush(outbox, self._clock())
            self.bytes_sent += sent
        if self._close_asked:
            self.close()
        elif self._hosted:
            if self.unsure:
                self._wake()
            if self._alarm is None:  # the host asks for `next_timeout` now
                due = self._timers.next_due()
                self._alarm_due = _NEVER if due is None else due
            self._tell_host()

    def _tick(self, timeout: float | None, budget: float | None = None) -> int:
        registry = self.registry
        stale = registry.stale
        due = self._timers.next_due()
        most = EVENTS_PER_TICK if budget is None else EVENTS_PER_SLICE
        if registry.leftover:
            events = registry.batch(registry.leftover, most)
        else:
            if self._ready or self.outbox:  # a flush may call back, and that write
                timeout = 0
            elif due is not None:
                wait = min(max(0.0, due - self._clock()), _LONGEST_WAIT)
                timeout = wait if timeout is None else min(wait, timeout)
            if stale:
                stale.clear()
            events = registry.poll(timeout, most)
            if len(events) > most:
                events = registry.batch(events, most)
        self.now = self._clock()
        end = None if budget is None else self.now + budget

        timed = end is not None or self._slow_callback is not None
        if timed:
            self._lap = self.now
        on_events, owners = registry.on_events, registry.owners
        handled = len(events)
        for fd, ready in events:
            if stale and fd in stale:
                continue
            if ready != 1 and not (ready := registry.fold(fd, ready)):
                continue
            owner = owners[fd]
            on_events[fd](owner, ready)
            if timed and self._end_event(owner, end):
                handled = 1 + [number for number, _ in events].index(fd)
                registry.leftover = events[handled:] + registry.leftover
                break
        if self.outbox:
            self._flush_outbox()

        if due is not None and due <= self.now:
            handled += self._run_timers(end)
        if self._ready:
            handled += self._run_ready(end)
        if self.outbox:
            self._flush_outbox()
        self.ticks += 1
        self.events += handled
        ended = self._clock()
        if ended - self.now > self.tick_times.usual:
            self.tick_times.add(ended, ended - self.now)
            self.counters.add_lag(ended - self.now)
        if self._slow_callback is not None and ended - self._lap > self._slow_callback:
            self._end_lap(SENDING, ended)
        return handled

    def _end_event(self, owner: Any, end: float | None) -> bool:
        """Warn if the event of `owner` took long; return whether the clock has reached `end`."""
        now = self._clock()
        if self._slow_callback is not None and now - self._lap > self._slow_callback:
            self._end_lap(repr(owner), now)
        self._lap = now
        return end is not None and now >= end

    def _flush_outbox(self) -> None:
        outbox, self.outbox = self.outbox or [], []
        try:
            sent = self._flush(outbox, self.now)
        except BaseException:
            self.outbox += outbox  # an interrupt: `_leave` sends the rest
            raise
        self.bytes_sent += sent  # a line of its own: what is called has added to it as well

    def _check_open(self) -> None:
        self.check_process()
        if self._closed:
            raise UsageError("the reactor is closed: make a new one")

    def check_lasting(self) -> None:
        """Raise UsageError if what is made now would outlive the loop: it is closed, or being closed."""
        self._check_open()
        if self._closing:
            raise UsageError("the reactor is being closed: make a new one")

    def check_unattached(self) -> None:
        """Raise UsageError if a host drives the loop."""
        if self.host is not None:
            raise UsageError("the reactor is attached to a host, which drives it: detach it first")

    def check_process(self) -> None:
        """Raise UsageError in a forked child of the process that made this."""
        if self._disowned:
            raise UsageError(
                f"the reactor belongs to process {self._pid}, and this is a child of it: make a new one"
            )

    def is_disowned(self) -> bool:
        """Return whether this is a forked child's copy, of which only `close` can be used."""
        return self._disowned

    def disown(self) -> None:
        """Let go of everything without touching what is shared with the parent process: this is a child.

        From now on every use is a UsageError, but for `close`, which closes the child's descriptors.
        """
        self._disowned = True
        self._hosted = False
        self.registry.disown(self.check_process)
        self._ready.clear()  # no future is cancelled: a thread that is not here may have held its lock
        self._timers = TimerHeap()
        self._signals.clear()
        if self.outbox is not None:
            self.outbox.clear()

    def _wake(self) -> None:
        try:
            self._wakeup.wake()
        except OSError:
            if not self._closed:
                raise

    def call_at_close(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """Run `callback(*args)` when the loop is closed, while its descriptors are still open. Cancellable.

        It runs on the thread that closes the loop.
        """
        check_callable("callback", callback)
        self._check_open()
        self._at_close = [handle for handle in self._at_close if not handle.cancelled()]
        handle = Handle(callback, args)
        self._at_close.append(handle)
        return handle

    def _close(self) -> None:
        try:
            self._end()
        finally:
            self._closed = True
            self._hosted = False
            self.log.flush()
            self._drop_all()
            if self._signals.clear():
                self._close_descriptors()
            self.registry.close()
            if self._workers is not None:
                self._workers.close(timeout=0)

    def _end(self) -> None:
        """Let all that there is come to its end, while descriptors are open. Nothing new is taken on."""
        for handle in self._at_close:
            self._run(handle)
        self._closing = True
        self._end_all()
        self._run_notices()

    def _end_all(self) -> None:
        """End what has been built on the loop."""

    def _close_descriptors(self) -> None:
        self._wakeup.close()
        if self._alarm is not None:
            self._alarm.close()

    # Descriptors

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` whenever `fd`, a descriptor of your own, is readable.

        Another call for the same descriptor replaces the callback.
        Raises UsageError for a descriptor that belongs to a connection or listener, OSError or
        ValueError for one that can't be waited for.
        """
        check_callable("callback", callback)
        self.check_lasting()
        self.registry.watch(fd, EVENT_READ, self.call, callback, args)

    def add_writer(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` whenever `fd` is writable; else as `add_reader`."""
        check_callable("callback", callback)
        self.check_lasting()
        self.registry.watch(fd, EVENT_WRITE, self.call, callback, args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """Undo `add_reader`, before the descriptor is closed; return whether there was a callback."""
        self.check_process()
        return self.registry.unwatch(fd, EVENT_READ)

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """Undo `add_writer`, before the descriptor is closed; return whether there was a callback."""
        self.check_process()
        return self.registry.unwatch(fd, EVENT_WRITE)

    # Signals

    def add_signal_handler(self, signum: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` on the loop when signal `signum` comes, until it is removed or closed.

        What handled the signal before is put back then. On the main thread only.
        Raises TypeError for what is no signal's number, UsageError on another thread, ValueError or OSError
        for a signal that can't be handled.
        """
        check_callable("callback", callback)
        self.check_lasting()
        self._signals.add(signum, callback, args)

    def remove_signal_handler(self, signum: int) -> bool:
        """Put back what handled `signum` before; return whether there was a handler of this loop."""
        return self._signals.remove(signum)


#: Those of this process, for the one thing that concerns them all: that it forks.
_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


def _disown_all() -> None:
    for loop in _loops:
        loop.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
