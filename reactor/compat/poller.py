"""`Poller`: the kernel's side of a map of `asyncore`, remembered between passes.

The standard `asyncore` asks every object for its interest in each pass, and hands all descriptors to the
kernel again. A poller keeps one epoll descriptor for each map, and changes what has changed. It asks an
object in each pass only where a program has overridden its predicates, or where the object does not announce
to the poller what changes their answers; the others are asked when they have announced something, and after
their events.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections.abc import Callable
from errno import EBADF, EEXIST, EINVAL, ENOENT, EPERM
from itertools import count
from typing import Any, Protocol, Self

import attrs

from reactor.errors import UsageError

__all__ = [
    "BUSY", "ERR", "EVENTS_PER_PASS", "HUP", "IN", "NVAL", "OUT", "PRI",
    "Channel", "Poller", "Ready", "SocketMap", "poller_of",
]  # fmt: skip

#: The event bits of poll(2), which are those of epoll too.
IN, PRI, OUT, ERR, HUP, NVAL = 1, 2, 4, 8, 16, 32

#: Beside the interest of an object: it would be reported writable all the time, which has no effect on it.
BUSY = 1 << 16

#: The limit of events in one pass; more come with the next one.
EVENTS_PER_PASS = 4096

# Seconds that a pass takes at most where the standard one would return at once, and somebody counts on it.
_BUSY_WAIT = 0.001

# Seconds between two looks for what was changed without an announcement.
_SWEEP = 2.0

_EDGE = 1 << 31  # EPOLLET: an event is reported when it comes, and not all the time

Map = dict[Any, Any]

#: Returns how to get the interest of the object of a descriptor, in event bits: it holds until the object
#: announces a change or has another event than input. None for an object that is to be asked in every pass.
Steady = Callable[["Poller", int, Any], Callable[[Any], int] | None]


class Selector(Protocol):
    """The part of `select.epoll` that a poller uses."""

    def register(self, fd: int, eventmask: int, /) -> object: ...
    def modify(self, fd: int, eventmask: int, /) -> object: ...
    def unregister(self, fd: int, /) -> object: ...
    def poll(self, timeout: float | None, maxevents: int, /) -> list[tuple[int, int]]: ...
    def close(self) -> object: ...


class PollSelector:
    """A selector on poll(2), for systems without epoll."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch `fd`."""
        self._poll.register(fd, eventmask & ~_EDGE)

    modify = register

    def unregister(self, fd: int, /) -> None:
        """Watch `fd` no more."""
        self._poll.unregister(fd)

    def poll(self, timeout: float | None, maxevents: int, /) -> list[tuple[int, int]]:
        """Return the ready descriptors with their events. timeout: seconds; None: for ever."""
        return self._poll.poll(None if timeout is None else -int(-timeout * 1000 // 1))[:maxevents]

    def close(self) -> None:
        """Do nothing: there is no descriptor."""


class SelectSelector:
    """A selector on select(2), for systems that have nothing better."""

    def __init__(self) -> None:
        self._interest: dict[int, int] = {}

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch `fd`."""
        self._interest[fd] = eventmask

    modify = register

    def unregister(self, fd: int, /) -> None:
        """Watch `fd` no more."""
        del self._interest[fd]

    def poll(self, timeout: float | None, maxevents: int, /) -> list[tuple[int, int]]:
        """Return the ready descriptors with their events. timeout: seconds; None: for ever."""
        read, write, urgent = (
            [fd for fd, mask in self._interest.items() if mask & bit] for bit in (IN, OUT, PRI)
        )
        if not read and not write and not urgent:  # which Windows refuses
            time.sleep(threading.TIMEOUT_MAX if timeout is None else timeout)
            return []
        found: dict[int, int] = {}
        for fds, bit in zip(select.select(read, write, urgent, timeout), (IN, OUT, PRI), strict=True):
            for fd in fds:
                found[fd] = found.get(fd, 0) | bit
        return list(found.items())[:maxevents]

    def close(self) -> None:
        """Do nothing: there is no descriptor."""


def new_selector() -> Selector:
    """Return the best selector of the platform."""
    if hasattr(select, "epoll"):
        return select.epoll()
    return PollSelector() if hasattr(select, "poll") else SelectSelector()


@attrs.define(eq=False)
class Channel:
    """An object of a map, as its poller knows it."""

    fd: int
    obj: Any
    rank: int  # its place in the map
    interest_of: Callable[[Any], int] | None = None  # None: it is to be found out whether there is one
    interest: int = 0  # what that returned
    mask: int = 0  # what the selector watches for; 0: it is not watched
    asked: bool = False  # in every pass
    dirty: bool = False  # to be asked in the next pass
    edge: bool = False  # watched for new events alone
    always: bool = False  # a regular file, which is ready all the time and can't be watched
    invalid: bool = False  # its descriptor is closed
    gone: bool = False  # from the map, or replaced there


#: A channel's place in the map, its events, and the channel.
Ready = tuple[int, int, Channel]


class Poller:
    """The kernel's side of one map: which of its objects are ready, in the order of the map.

    steady: tells objects that announce what changes their interest from those that do not.

    `announce`, `added` and `removed` may be called on any thread, and take effect while `ready` waits on
    another one.
    """

    def __init__(self, map: Map, steady: Steady) -> None:
        self.map = map
        #: Called when there begins to be something that needs a pass without an event.
        self.on_restless: Callable[[], object] | None = None
        #: Called with the old descriptor when `fileno` has become another one.
        self.on_replaced: Callable[[int], object] | None = None
        self._steady = steady
        self._channels: dict[int, Channel] = {}
        self._ranks: dict[int, int] = {}
        self._next_rank = count()
        self._selector: Selector | None = None
        self._lock = threading.RLock()
        self._waiting: set[int] = set()  # threads in `ready`: what is announced takes effect at once
        self._held = False  # so it does all the time
        self._unsure = False  # what an interrupt has left
        self._added: list[int] = []
        self._dirty: list[Channel] = []
        self._asked: list[Channel] = []
        self._asked_changed = False
        self._restive: list[Channel] = []  # regular files, and closed descriptors
        self._busy = 0
        self._swept = time.monotonic()
        self._keys: list[Any] = []
        self._values: list[Any] = []
        for fd in list(map):
            self.added(fd)
        _pollers.add(self)

    # Announcements

    def announce(self, fd: int) -> None:
        """Get the interest of the object of `fd` again."""
        channel = self._channels.get(fd)
        if channel is not None and not channel.dirty:
            self._soil(channel)

    def announce_anew(self, fd: int) -> None:
        """As `announce`, and find out whether it is still to be got in that way."""
        channel = self._channels.get(fd)
        if channel is not None:
            channel.interest_of = None
            self._soil(channel)

    def _soil(self, channel: Channel) -> None:
        channel.dirty = True
        self._dirty.append(channel)
        if self._waiting or self._held:
            self.settle()

    def added(self, fd: int) -> None:
        """Watch the object that the map has for `fd` now. The descriptor may be another one than before."""
        with self._lock:
            self._drop(fd)
            if fd not in self._ranks:
                self._ranks[fd] = next(self._next_rank)
            self._added.append(fd)
            if self._waiting or self._held:
                self.settle()

    def removed(self, fd: int) -> None:
        """Forget the object of `fd`. To be called before the descriptor is closed."""
        with self._lock:
            self._drop(fd)
            self._ranks.pop(fd, None)
            self._keys = []  # it may be put in again where nobody announces it
            self._close_idle()

    def refresh(self) -> None:
        """Compare all objects with the map: it was changed in many places."""
        with self._lock:
            for fd in [fd for fd, channel in self._channels.items() if self.map.get(fd) is not channel.obj]:
                self._drop(fd)
            self._ranks = {fd: next(self._next_rank) for fd in list(self.map)}
            for fd, rank in self._ranks.items():
                channel = self._channels.get(fd)
                if channel is None:
                    self._added.append(fd)
                else:
                    channel.rank = rank
            self._asked_changed = True
            if self._held:
                self.settle()
            self._close_idle()

    def _drop(self, fd: int) -> None:
        channel = self._channels.pop(fd, None)
        if channel is None:
            return
        channel.gone = True
        self._busy -= channel.interest >= BUSY
        self._asked_changed |= channel.asked
        if channel.always or channel.invalid:
            self._restive.remove(channel)
        elif channel.mask and self._selector is not None:
            try:
                self._selector.unregister(fd)
            except (OSError, KeyError, ValueError):
                pass  # it is closed already: the kernel has forgotten it, or `ready` finds what is left

    # A pass

    def ready(
        self, timeout: float | None, *, seen: bool = True, asked: bool = False, limit: int = EVENTS_PER_PASS
    ) -> list[Ready]:
        """Wait until objects are ready and return their channels, in the order of the map.

        Their events are those of epoll: of `Channel.mask`, ERR and HUP; NVAL for a closed descriptor.
        timeout: seconds; None: for ever. seen: whether it is noticed when a pass takes long. asked:
            whether `ask` was called. limit: of events.
        """
        here = threading.get_ident()
        try:
            self._waiting.add(here)
            if asked:
                self._catch_up()
            else:
                self.ask()
            if self.is_restless():
                timeout = 0
            elif self._busy and (seen or self._asked) and (timeout is None or timeout > _BUSY_WAIT):
                timeout = _BUSY_WAIT
            return self._found(self._opened().poll(timeout, max(1, min(len(self._channels), limit))))
        except BaseException:
            self._unsure = True
            raise
        finally:
            with self._lock:
                self._waiting.discard(here)
                self._close_idle()

    def _found(self, events: list[tuple[int, int]]) -> list[Ready]:
        found: list[Ready] = []
        channels = self._channels
        for fd, flags in events:
            channel = channels.get(fd)
            if channel is None or not channel.mask:
                self._expel(fd)
                continue
            found.append((channel.rank, flags, channel))
            if flags == IN:
                continue  # input changes the interest by what is announced alone
            self._look_again(channel)
        for channel in self._restive:
            if channel.mask:
                flags = NVAL if channel.invalid else channel.mask & ~PRI
                found.append((channel.rank, flags, channel))
                self._look_again(channel)
        if len(found) > 1:
            found.sort()
        return found

    def _look_again(self, channel: Channel) -> None:
        """Get the interest again before the next wait."""
        if not channel.dirty:
            channel.dirty = True
            self._dirty.append(channel)

    def ask(self) -> None:
        """Ask the objects that are to be asked, and make the selector watch for what they want."""
        try:
            self._catch_up()
            for channel in self._asked:  # without the lock: another thread may hold one of the program's
                obj = channel.obj
                mask = IN | PRI if obj.readable() else 0
                if obj.writable():
                    mask |= PRI if obj.accepting else OUT | PRI
                if mask != channel.mask:
                    with self._lock:
                        if not channel.gone:
                            self._apply(channel, mask)
        except BaseException:
            self._unsure = True
            raise

    def _catch_up(self) -> None:
        """Take in what was announced, and what was changed without that."""
        with self._lock:
            if self._unsure:
                self._begin_anew()
            if type(self.map) is not SocketMap:
                self._compare()
            now = time.monotonic()
            if now - self._swept > _SWEEP:
                self._sweep(now)
            self.settle()
            if self._asked_changed:
                self._asked_changed = False
                asked = (channel for channel in self._channels.values() if channel.asked)
                self._asked = sorted(asked, key=lambda channel: channel.rank)

    def settle(self) -> None:
        """Make the selector watch for what was announced."""
        with self._lock:
            try:
                self._opened()
                while self._added:
                    self._welcome(self._added.pop())
                while self._dirty:
                    channel = self._dirty.pop()
                    if not channel.gone:
                        self._renew(channel)
            except BaseException:
                self._unsure = True
                raise

    def _welcome(self, fd: int) -> None:
        obj = self.map.get(fd)
        if obj is not None and fd not in self._channels and fd in self._ranks:
            channel = self._channels[fd] = Channel(fd, obj, self._ranks[fd])
            self._judge(channel)

    def _renew(self, channel: Channel) -> None:
        """Get the interest of the object again."""
        if channel.interest_of is None:
            self._judge(channel)
            return
        channel.dirty = False
        interest = channel.interest_of(channel.obj)
        if interest != channel.interest:
            self._set_interest(channel, interest)

    def _judge(self, channel: Channel) -> None:
        """Find out whether the object is to be asked in every pass, and get its interest if not."""
        channel.interest_of = self._steady(self, channel.fd, channel.obj)
        asked = channel.dirty = (
            channel.interest_of is None
        )  # what is asked in every pass need not be announced
        if asked != channel.asked:
            channel.asked = asked
            self._asked_changed = True
            if asked and self.on_restless is not None:
                self.on_restless()
        if channel.interest_of is not None:
            self._set_interest(channel, channel.interest_of(channel.obj))
        elif channel.interest:
            self._set_interest(channel, channel.interest & ~BUSY)

    def _set_interest(self, channel: Channel, interest: int) -> None:
        self._busy += (interest >= BUSY) - (channel.interest >= BUSY)
        channel.interest = interest
        mask = interest & ~BUSY
        if mask != channel.mask:
            self._apply(channel, mask)

    def _apply(self, channel: Channel, mask: int) -> None:
        before, channel.mask = channel.mask, mask
        if channel.always or channel.invalid:
            return
        assert self._selector is not None
        try:
            if not mask:
                self._selector.unregister(channel.fd)
            elif before:
                self._selector.modify(channel.fd, mask)
            else:
                self._selector.register(channel.fd, mask)
            channel.edge = False
        except OSError as exc:
            self._refused(channel, exc)

    def _refused(self, channel: Channel, exc: OSError) -> None:
        """Watch the channel in another way: its descriptor is not what it was, or can't be watched."""
        assert self._selector is not None
        if not channel.mask:
            pass  # it is not watched, as it should be
        elif exc.errno == EEXIST:
            self._selector.modify(channel.fd, channel.mask)
        elif exc.errno == ENOENT:
            self._selector.register(channel.fd, channel.mask)
        elif exc.errno in (EPERM, EBADF, EINVAL):  # the last: the number is the selector's own now
            channel.always, channel.invalid = exc.errno == EPERM, exc.errno != EPERM
            self._restive.append(channel)
            if self.on_restless is not None:
                self.on_restless()
        else:
            raise exc

    def hush(self, channel: Channel) -> None:
        """Report `channel` only when it has a new event: it had one that nobody has asked for."""
        with self._lock:
            if not (channel.gone or channel.always or channel.invalid or channel.edge) and channel.mask:
                self._watch(channel, edge=True)

    def heed(self, channel: Channel) -> None:
        """Undo `hush`: it has an event that was asked for, and may have it for long."""
        with self._lock:
            if not channel.gone:
                self._watch(channel, edge=False)

    def _watch(self, channel: Channel, *, edge: bool) -> None:
        assert self._selector is not None
        channel.edge = edge
        try:
            self._selector.modify(channel.fd, channel.mask | (_EDGE if edge else 0))
        except OSError as exc:
            self._refused(channel, exc)

    # What was changed without an announcement

    def _compare(self) -> None:
        """See whether a plain dict has other keys or values than in the last pass."""
        keys, values = list(self.map), list(self.map.values())
        if keys != self._keys or values != self._values:
            self._keys, self._values = keys, values
            self.refresh()

    def _sweep(self, now: float) -> None:
        """Look at every entry of the map again, and for descriptors that were closed."""
        self._swept = now
        self.refresh()
        watched = select.poll() if hasattr(select, "poll") else None
        for channel in self._channels.values():
            channel.interest_of = None
            channel.dirty = True
            self._dirty.append(channel)
            if watched is not None and channel.mask and not (channel.always or channel.invalid):
                watched.register(channel.fd, 0)
        for fd, flags in watched.poll(0) if watched is not None else ():
            if flags & NVAL:
                channel = self._channels[fd]
                channel.invalid = True
                self._restive.append(channel)

    def _expel(self, fd: int) -> None:
        """Make the selector report `fd`, which nobody has, no more."""
        with self._lock:
            try:
                channel = self._channels.get(fd)
                if channel is None or not channel.mask:  # still
                    self._opened().unregister(fd)
            except (OSError, KeyError):
                self._replace()  # it was closed while another descriptor had the same file open: epoll(7), Q6

    # The selector

    def _opened(self) -> Selector:
        if self._selector is None:
            self._selector = new_selector()
        return self._selector

    def _close_idle(self) -> None:
        idle = not (self._ranks or self._waiting or self._held)
        if idle and self._selector is not None:
            selector, self._selector = self._selector, None
            selector.close()

    def _begin_anew(self) -> None:
        """Ask every object, and register it again: an interrupt may have come between the two."""
        self._unsure = False
        self._opened()
        self._keys = []
        self._busy = 0
        self._restive.clear()
        for channel in self._channels.values():
            channel.mask = channel.interest = 0
            channel.always = channel.invalid = False
            channel.interest_of = None
            channel.dirty = True
        self._dirty[:] = self._channels.values()
        self.refresh()
        self.settle()

    def _replace(self) -> None:
        """Take a new selector, and register everything there."""
        before = self.fileno() if self._held else -1
        self._forget_selector()
        self._begin_anew()
        if self.on_replaced is not None:
            self.on_replaced(before)

    def _forget_selector(self) -> None:
        selector, self._selector = self._selector, None
        if selector is not None:
            selector.close()
        for channel in self._channels.values():
            channel.mask = 0
        self._unsure = True

    def detach(self) -> None:
        """Detach after fork: the epoll descriptor is shared with the parent."""
        self._lock = threading.RLock()
        self._waiting.clear()
        self._held = False
        self.on_restless = self.on_replaced = None
        self._forget_selector()

    # On a reactor

    def fileno(self) -> int:
        """Return a descriptor that is readable while `ready` has something to return.

        Raises UsageError where the platform's selector has none.
        """
        fileno = getattr(self._opened(), "fileno", None)
        if fileno is None:
            raise UsageError("this platform has no epoll, and a map can't be put on a reactor: call loop()")
        number: int = fileno()
        return number

    def hold(self) -> None:
        """Keep the selector open, and let what is announced take effect at once, until `release`.

        Raises UsageError if another does.
        """
        if self._held:
            raise UsageError("the map is on a reactor already: detach it there first")
        self._held = True
        self.settle()

    def release(self) -> bool:
        """Undo `hold`; return whether there was something to undo, which a forked child does not have."""
        with self._lock:
            held, self._held = self._held, False
            self.on_restless = self.on_replaced = None
            self._close_idle()
        return held

    def is_asking(self) -> bool:
        """Return whether there is something to `ask`."""
        return bool(self._asked) or self._asked_changed or self._unsure

    def is_restless(self) -> bool:
        """Return whether a pass would return at once, for a file that can't be watched."""
        return bool(self._restive) and any(channel.mask for channel in self._restive)


class SocketMap(dict[Any, Any]):
    """A map that tells its poller what is changed in it, so that no pass has to look."""

    def __init__(self, steady: Steady) -> None:
        super().__init__()
        self.poller = Poller(self, steady)

    def __setitem__(self, fd: Any, obj: Any) -> None:
        super().__setitem__(fd, obj)
        self.poller.added(fd)

    def __delitem__(self, fd: Any) -> None:
        super().__delitem__(fd)
        self.poller.removed(fd)

    def pop(self, fd: Any, *default: Any) -> Any:
        """As `dict.pop`."""
        obj = super().pop(fd, *default)
        self.poller.removed(fd)
        return obj

    def popitem(self) -> tuple[Any, Any]:
        """As `dict.popitem`."""
        item = super().popitem()
        self.poller.removed(item[0])
        return item

    def setdefault(self, fd: Any, default: Any = None) -> Any:
        """As `dict.setdefault`."""
        if fd not in self:
            self[fd] = default
        return self[fd]

    def clear(self) -> None:
        """As `dict.clear`."""
        super().clear()
        self.poller.refresh()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As `dict.update`."""
        super().update(*args, **kwargs)
        self.poller.refresh()

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.update(other)
        return self


#: Of plain dicts, by identity. Each is kept by the objects in its map, and goes with them.
_of_dicts: weakref.WeakValueDictionary[int, Poller] = weakref.WeakValueDictionary()
_pollers: weakref.WeakSet[Poller] = weakref.WeakSet()
_lock = threading.Lock()


def poller_of(map: Map, steady: Steady) -> Poller:
    """Return the poller of a map; steady: as `Poller` takes it, for a new one."""
    if type(map) is SocketMap:
        return map.poller
    poller = _of_dicts.get(id(map))
    if poller is None:
        with _lock:
            poller = _of_dicts.get(id(map))
            if poller is None:
                poller = _of_dicts[id(map)] = Poller(map, steady)
    return poller


def _detach_all() -> None:
    for poller in list(_pollers):
        poller.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach_all)
