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
from typing import Any, TypeVar, TypeVarTuple

from reactor.errors import UsageError
from reactor.loop.alarm import Alarm, new_alarm
from reactor.loop.lifetime import Lifetime
from reactor.loop.log import caller, logger
from reactor.loop.registry import FileDescriptorLike, Registry
from reactor.loop.scheduler import SENDING, ErrorHandler, Scheduler
from reactor.loop.selector import default_selector
from reactor.loop.signals import Signals
from reactor.loop.stats import Counters
from reactor.loop.system import KERNEL, System
from reactor.loop.timers import Handle, TickTimes
from reactor.loop.wakeup import Wakeup
from reactor.options import check_callable, number, seconds

__all__ = ["EVENTS_PER_TICK", "ErrorHandler", "Loop"]

Ts = TypeVarTuple("Ts")

#: The limit of events that one tick handles, so that they don't starve the rest. libuv and uvloop take
#: 1024 events a poll. Here what a tick has received and gathered should fit the processor's cache: with
#: 256 busy connections, 64 measured 4 to 9 % faster than 256, and 16 was slower again.
EVENTS_PER_TICK = 64

# The same where a budget is given: what was gathered is sent after the budget's end.
EVENTS_PER_SLICE = 16

# epoll_wait(2) counts milliseconds in an int, 24 days; a wait that ends early does no harm.
_LONGEST_WAIT = 86400.0

_NEVER = math.inf

T = TypeVar("T")


def _do_nothing() -> None:
    pass


def _time_until(due: float, timeout: float | None) -> float:
    """Return how long to wait for events: until a timer that is `due` in so many seconds, up to `timeout`."""
    if due <= 0:
        return 0.0
    if timeout is not None and timeout < due:
        return timeout
    return min(due, _LONGEST_WAIT)


class Loop:
    """An event loop: one selector, driven by one thread at a time; any number in a process.

    A `Reactor` has one, and documents for users what is called there by the same name. Methods are called on
    the thread that drives the loop, but for those that say otherwise.

    selector: where descriptors are registered; None takes the platform's `DefaultSelector`. It is closed with
        the loop.
    clock, on_error, slow_callback, debug: as `Reactor` has them.
    system: where sockets, names and threads come from.
    flush: called at the end of a tick's phase, as `flush(loop, now, outbox)`, to send what its callbacks
        have left in `loop.outbox`, which it replaces by `outbox` first. now: the time, for what it sends.

    on_close, on_recover, on_fork: set by what is built on the loop, whose end, repair and detaching they are.
        Called when the loop is being closed, with its descriptors open; before the tick after an interrupt;
        in a forked child.
    scheduler: its callbacks and timers. registry: its descriptors. lifetime: whether it can be used.
    """

    # A dictionary would be faster only up to 30 attributes.
    __slots__ = (
        "__weakref__", "_alarm", "_alarm_due", "_at_close", "_close_asked", "_driver", "_each_tick", "_flush",
        "_host", "_host_at_close", "_hosted", "_signals", "_slow_callback", "_stop_asked", "_wakeup",
        "bytes_received", "bytes_sent", "counters", "events", "lifetime", "now", "on_close", "on_fork",
        "on_recover", "outbox", "registry", "scheduler", "slice_end", "system", "tick_times", "ticks", "time",
        "unsure",
    )  # fmt: skip

    def __init__(
        self,
        *,
        selector: BaseSelector | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_error: ErrorHandler | None = None,
        slow_callback: float | None = None,
        debug: bool = False,
        system: System = KERNEL,
        flush: Callable[[Loop, float, list[Any] | None], object] = lambda loop, now, outbox: None,
    ) -> None:
        check_callable("clock", clock)
        check_callable("on_error", on_error, optional=True)
        if slow_callback is not None:
            slow_callback = seconds("slow_callback", slow_callback, zero=True)

        #: The clock, and its time at the beginning of this tick.
        self.time = clock
        self.now = clock()
        #: Ticks, and the events, timers and callbacks that they handled.
        self.ticks = self.events = 0
        #: Counted by whoever receives and sends.
        self.bytes_received = self.bytes_sent = 0
        self.counters = Counters()
        self.tick_times = TickTimes()
        #: Within a tick, what is to be handed to `flush` at its end; None outside of ticks.
        self.outbox: list[Any] | None = None
        #: Where a budget is given, the clock's time at which the tick is to end; else infinity.
        self.slice_end = _NEVER
        #: An interrupt may have left things half done: they are repaired before the next tick.
        self.unsure = False

        self.on_close: Callable[[], object] = _do_nothing
        self.on_recover: Callable[[], object] = _do_nothing
        self.on_fork: Callable[[], object] = _do_nothing

        self.system = system
        self.lifetime = Lifetime()
        self.scheduler = Scheduler(
            clock=clock,
            lifetime=self.lifetime,
            system=system,
            counters=self.counters,
            wake=self._wake,
            check_thread=self.check_thread if debug else None,
            on_error=on_error,
            slow_callback=slow_callback,
        )
        self.registry = Registry(default_selector() if selector is None else selector)

        self._slow_callback = slow_callback
        self._flush = flush
        self._driver: int | None = None  # the thread that is in `run` or `run_once`
        self._stop_asked = False
        self._close_asked = False
        self._at_close: list[Handle] = []
        self._each_tick: list[Handle] = []

        # A host that waits for `fileno`.
        self._hosted = False
        self._host: int | None = None  # the thread of the one that is attached: the loop is closed there
        self._host_at_close: Handle | None = None
        self._alarm: Alarm | None = None
        self._alarm_due = _NEVER

        with ExitStack() as undo:
            if selector is None:  # another is still the caller's
                undo.callback(self.registry.close)
            self._wakeup = Wakeup(self.scheduler.ready.append, system.socketpair())
            undo.callback(self._wakeup.close)
            self.registry.register(self._wakeup.fileno(), EVENT_READ, Wakeup.on_event, self._wakeup)
            undo.pop_all()
        self._signals = Signals(self.scheduler.call_soon_threadsafe, self._wakeup)
        _loops.add(self)

    # Driving

    def run(self) -> None:
        """Drive the loop on this thread until `stop` or `close`. Raises as `Reactor.run`."""
        self._drive(self._tick_until_stopped)

    def _tick_until_stopped(self) -> None:
        if not self._stop_asked:
            self._tick(None, once=False)

    def run_once(self, timeout: float | None = 0, budget: float | None = None) -> int:
        """As `Reactor.run_once`."""
        if budget is not None:
            budget = seconds("budget", budget, zero=True)
        if timeout is not None:
            timeout = min(max(0.0, number("timeout", timeout)), _LONGEST_WAIT)
        if budget is None:
            return self._drive(self._tick, timeout)
        return self._drive(self._run_slice, timeout, budget)

    def _drive(self, step: Callable[..., T], *args: Any) -> T:
        """Return what `step(*args)` returns, with this thread as the loop's driver meanwhile."""
        self.lifetime.check_open()
        here = threading.get_ident()
        entered = 0
        try:
            try:
                if self._driver is None:
                    self._driver = entered = here  # one step: neither a thread nor an interrupt comes between
                else:
                    raise UsageError(
                        "the reactor is being driven by this thread already: return from the callback first"
                        if self._driver == here
                        else "the reactor is being driven by another thread already: pass it calls by submit"
                    )
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
        """Repair what an interrupt has left: each part waits for an event or a timer again."""
        self.registry.recover()
        self._wakeup.wake()
        self._alarm_due = _NEVER
        self.on_recover()

    def _run_slice(self, timeout: float | None, budget: float) -> int:
        total = handled = self._tick(timeout, budget)
        end = self.now + budget  # the wait is not counted
        while handled and not self._stop_asked and (left := end - self.time()) > 0:
            handled = self._tick(0, left)
            total += handled
        return total

    def stop(self) -> None:
        """As `Reactor.stop`."""
        self.lifetime.check_process()
        self._stop_asked = True
        self._wake()

    def close(self) -> None:
        """Close the descriptors and cancel the callbacks; a loop that is running is stopped first.

        From any thread; more than once does nothing. While it is driven, or attached to a host, it is closed
        on that thread.
        """
        lifetime = self.lifetime
        if lifetime.closed:
            return
        here = threading.get_ident()
        if lifetime.forked:
            lifetime.closed = True
            self._close_descriptors()
            self.registry.selector.close()
        elif self._driver is None and self._host in (None, here):
            self._driver = here  # no call between the question and this: no thread comes between
            try:
                self._close()
            finally:
                self._driver = None
        else:
            self._close_asked = True
            self.stop()
            if self._driver is None and self._host in (None, here):
                self.close()  # the driver has left meanwhile, and may have looked before

    # A host's loop around this one

    def fileno(self) -> int:
        """As `Reactor.fileno`."""
        self.lifetime.check_open()
        selector = self.registry.selector
        fileno = getattr(selector, "fileno", None)
        if fileno is None:
            raise UsageError(f"{type(selector).__name__} has no descriptor: call run_once instead")
        if not self._hosted:
            self._alarm = self._watched_alarm()
            self._hosted = True
            self.scheduler.on_added = self._update_host
        self._update_host()  # each time: an interrupt may have come before the end of the last tick did
        number: int = fileno()
        return number

    def timers_in_fileno(self) -> bool:
        """As `Reactor.timers_in_fileno`."""
        self.fileno()
        return self._alarm is not None

    def next_timeout(self) -> float | None:
        """As `Reactor.next_timeout`."""
        if self.scheduler.ready or self.registry.leftover or self.outbox:
            return 0.0
        due = self.scheduler.timers.next_due()
        return None if due is None else min(max(0.0, due - self.time()), _LONGEST_WAIT)

    def attach_host(self, on_close: Callable[[], object]) -> None:
        """As `Reactor.attach_host`."""
        self.lifetime.check_open()
        self.check_unattached()
        self._host_at_close = self.call_at_close(on_close)
        self._host = threading.get_ident()

    def detach_host(self) -> bool:
        """As `Reactor.detach_host`."""
        handle, self._host_at_close = self._host_at_close, None
        if handle is not None:
            handle.cancel()
        self._host = None
        return not self.lifetime.forked

    def check_unattached(self) -> None:
        """Raise UsageError if a host drives the loop."""
        if self._host is not None:
            raise UsageError("the reactor is attached to a host, which drives it: detach it first")

    def _update_host(self) -> None:
        """Make `fileno` readable if there is something to do, or when the next timer is due."""
        if self._driver is not None:
            return  # in a tick: its end does this
        if self.scheduler.ready or self.registry.leftover or self.outbox:
            self._wake()
            return
        due = self.scheduler.timers.next_due()
        if due is None or due >= self._alarm_due:
            return
        if self._alarm is None:
            self._wake()
        else:
            self._alarm.set(min(due - self.time(), _LONGEST_WAIT))
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
            self.now = self.time()

    def _leave(self) -> None:
        self._stop_asked = False
        try:
            if self.outbox:
                self._flush(self, self.time(), None)
        finally:
            self.outbox = None
        if self._close_asked:
            self.close()
        elif self._hosted:
            if self.unsure:
                self._wake()
            if self._alarm is None:  # the host asks for `next_timeout` now
                due = self.scheduler.timers.next_due()
                self._alarm_due = _NEVER if due is None else due
            self._update_host()

    def _tick(self, timeout: float | None, budget: float | None = None, *, once: bool = True) -> int:
        """Wait up to `timeout`, and handle events, timers and callbacks; return how many of all three.

        budget: stop after the callback with which so many seconds have passed since the wait; None: no limit.
        once: return after one tick; else go on with ticks until `stop`, and return what the last one handled.
        """
        registry, scheduler, clock, flush = self.registry, self.scheduler, self.time, self._flush
        on_events, owners, stale, ready_queue = (
            registry.on_events, registry.owners, registry.stale, scheduler.ready,
        )  # fmt: skip
        limit = EVENTS_PER_TICK if budget is None else EVENTS_PER_SLICE
        timed = budget is not None or self._slow_callback is not None
        end = None
        self.slice_end = _NEVER
        ended = clock()  # the last tick, from which the wait counts
        while True:
            due = scheduler.timers.due
            if registry.leftover:
                events = registry.batch(registry.leftover, limit)
            else:
                wait = timeout if due == _NEVER else _time_until(due - ended, timeout)
                if ready_queue or self.outbox:  # a flush may call back, and that write
                    wait = 0.0
                if stale:
                    stale.clear()
                events = registry.poll(wait, limit)
            self.now = now = clock()
            if timed:
                scheduler.lap = now
                if budget is not None:
                    end = self.slice_end = now + budget

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
                flush(self, now, [])
            if ready_queue or due <= now or self._each_tick:
                handled += self._run_due(due, end)

            self.ticks += 1
            self.events += handled
            ended = clock()
            if timed or ended - now > self.tick_times.usual:
                self._end_tick(ended)
            if once or self._stop_asked:
                return handled

    def _run_due(self, due: float, end: float | None) -> int:
        """Run the timers, the earliest of which is due at `due`, and the callbacks; return how many."""
        scheduler, handled = self.scheduler, 0
        if due <= self.now:
            handled = scheduler.run_timers(self.now, end)
        handled += scheduler.run_ready(end)
        if self._each_tick:
            self._run_each_tick()
        if self.outbox:
            self._flush(self, self.now, [])
        return handled

    def _run_each_tick(self) -> None:
        self._each_tick = [handle for handle in self._each_tick if not handle.cancelled()]
        for handle in tuple(self._each_tick):
            pending = handle.pending()
            if pending is not None:
                callback, args = pending
                self.scheduler.call(callback, *args)

    def _end_tick(self, ended: float) -> None:
        """Note how long a tick took that ended at `ended`, if it was long or is to be watched."""
        took = ended - self.now
        if took > self.tick_times.usual:
            self.tick_times.add(ended, took)
            self.counters.add_lag(took)
        if self._slow_callback is not None and ended - self.scheduler.lap > self._slow_callback:
            self.scheduler.end_lap(SENDING, ended)

    def _end_event(self, owner: Any, end: float | None) -> bool:
        """Warn if the event of `owner` took long; return whether the clock has reached `end`."""
        now = self.time()
        if self._slow_callback is not None and now - self.scheduler.lap > self._slow_callback:
            self.scheduler.end_lap(repr(owner), now)
        self.scheduler.lap = now
        return end is not None and now >= end

    def check_thread(self, method: str) -> None:
        """Warn if this is not the thread that drives the loop, where `method` was called. For debug mode."""
        if self._driver is None or self._driver == threading.get_ident():
            return
        # Not a limited log, whose timer would be another call from the wrong thread.
        logger().warning(
            "%s was called on thread %s, and another drives the reactor: use call_soon_threadsafe, at %s",
            method,
            threading.current_thread().name,
            caller(),
        )

    def _wake(self) -> None:
        try:
            self._wakeup.wake()
        except OSError:
            if not self.lifetime.closed:
                raise

    def call_each_tick(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """As `Reactor.call_each_tick`."""
        check_callable("callback", callback)
        self.lifetime.check_open()
        handle = Handle(callback, args)
        self._each_tick.append(handle)
        return handle

    # The end

    def call_at_close(self, callback: Callable[[*Ts], object], *args: *Ts) -> Handle:
        """As `Reactor.call_at_close`."""
        check_callable("callback", callback)
        self.lifetime.check_open()
        self._at_close = [handle for handle in self._at_close if not handle.cancelled()]
        handle = Handle(callback, args)
        self._at_close.append(handle)
        return handle

    def _close(self) -> None:
        try:
            self.scheduler.lap = self.time()  # what is slow is measured from here
            for handle in self._at_close:
                self.scheduler.run(handle)
            self.lifetime.closing = True
            self.on_close()
            self.scheduler.run_notices()
        finally:
            self.lifetime.closed = True
            self._hosted = False
            self._each_tick.clear()
            self.scheduler.close()
            if self._signals.clear():
                self._close_descriptors()
            self.registry.close()
            self.scheduler.end_threads()

    def _close_descriptors(self) -> None:
        self._wakeup.close()
        if self._alarm is not None:
            self._alarm.close()

    def detach(self) -> None:
        """Detach after fork: stop using kernel objects shared with the parent.

        From now on every use is a UsageError, but for `close`, which closes the child's descriptors.
        """
        self.on_fork()
        self.lifetime.forked = True
        self._hosted = False
        self.registry.detach(self.lifetime.check_process)
        self.scheduler.detach()
        self._signals.clear()
        if self.outbox is not None:
            self.outbox.clear()

    # Descriptors

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As `Reactor.add_reader`."""
        check_callable("callback", callback)
        self.lifetime.check_lasting()
        self.registry.watch(fd, EVENT_READ, self.scheduler.call, callback, args)

    def add_writer(self, fd: FileDescriptorLike, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As `Reactor.add_writer`."""
        check_callable("callback", callback)
        self.lifetime.check_lasting()
        self.registry.watch(fd, EVENT_WRITE, self.scheduler.call, callback, args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """As `Reactor.remove_reader`."""
        self.lifetime.check_process()
        return self.registry.unwatch(fd, EVENT_READ)

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """As `Reactor.remove_writer`."""
        self.lifetime.check_process()
        return self.registry.unwatch(fd, EVENT_WRITE)

    # Signals

    def add_signal_handler(self, signum: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As `Reactor.add_signal_handler`."""
        check_callable("callback", callback)
        self.lifetime.check_lasting()
        self._signals.add(signum, callback, args)

    def remove_signal_handler(self, signum: int) -> bool:
        """As `Reactor.remove_signal_handler`."""
        return self._signals.remove(signum)


#: The loops of this process, for what concerns them all: a fork.
_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


def _detach_all() -> None:
    for loop in _loops:
        loop.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach_all)
