"""`FlatSelector`: the platform's `selectors.DefaultSelector`, epoll, kept in one byte per descriptor.

The standard class keeps a named tuple, a dictionary entry and an int for each descriptor (about 150
bytes), and asks the kernel for as many events as there are registered descriptors. This subclass keeps
the interest in a bytearray indexed by descriptor and asks for a bounded batch; otherwise it is a
`BaseSelector` like others. Where there is no epoll, the loop takes `DefaultSelector` as it is.
"""

from __future__ import annotations

import select
import selectors
import sys
from collections.abc import Callable, Iterator, Mapping
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from typing import Any

__all__ = ["ERRORS", "EXCLUSIVE", "FlatSelector", "Poll", "default_selector", "poll_of"]

#: Registered instead of EVENT_READ and EVENT_WRITE: an error or a hang-up, reported once. Only a
#: `FlatSelector` takes it.
ERRORS = 4

#: Added to EVENT_READ for a listening socket that other processes wait for as well: one of them is woken, or
#: some, not all. Only a `FlatSelector` takes it. EPOLLEXCLUSIVE of epoll_ctl(2), which can't be modified.
EXCLUSIVE = 8

Poll = Callable[[float | None, int], list[tuple[int, int]]]
Fold = Callable[[int, int], int]

if sys.platform == "linux":

    class FlatSelector(selectors.EpollSelector):
        """An `EpollSelector` whose registrations are bytes, without `SelectorKey.data`. It takes `ERRORS`."""

        def __init__(self) -> None:
            super().__init__()
            self._epoll: select.epoll = self._selector  # type: ignore[attr-defined]
            # Called with a timeout and a limit of events; returns descriptors with epoll's event bits.
            self.poll: Poll = self._epoll.poll
            self._interest = bytearray()

        def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
            """Register `fileobj`. Raises KeyError if it is registered already, ValueError if it can't be."""
            if data is not None:
                raise ValueError("FlatSelector keeps no data: keep it by descriptor")
            fd = _descriptor(fileobj)
            if events not in _MASK:
                raise ValueError(f"Invalid events: {events!r}")
            if fd < len(self._interest) and self._interest[fd]:
                raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
            self.change(fd, 0, events)
            return SelectorKey(fileobj, fd, events, None)

        def unregister(self, fileobj: Any) -> SelectorKey:
            """Unregister `fileobj`. Raises KeyError if it is not registered."""
            key = self.get_key(fileobj)
            self.change(key.fd, key.events, 0)
            return key

        def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
            """Change the `events` of `fileobj`. Raises KeyError if it is not registered."""
            key = self.get_key(fileobj)
            if events not in _MASK:
                raise ValueError(f"Invalid events: {events!r}")
            self.change(key.fd, key.events, events)
            return SelectorKey(fileobj, key.fd, events, None)

        def change(self, fd: int, before: int, events: int) -> None:
            """Watch `fd` for `events`, 0 for none, instead of for `before`; without keys, and unchecked."""
            interest = self._interest
            if not before:
                if fd >= len(interest):
                    interest.extend(bytes(fd + 1 - len(interest)))
                self._epoll.register(fd, _MASK[events])
            elif events:
                try:
                    self._epoll.modify(fd, _MASK[events])
                except OSError:
                    self.force(fd, 0)
                    raise
            else:
                try:
                    self._epoll.unregister(fd)
                except OSError:
                    pass  # the owner has closed it, and the kernel has dropped it by itself: epoll(7), Q6
            interest[fd] = events

        def force(self, fd: int, events: int) -> None:
            """Register `fd` for `events`, or unregister it for 0, whatever an interrupted call left."""
            if fd >= len(self._interest):
                self._interest.extend(bytes(fd + 1 - len(self._interest)))
            self._interest[fd] = 0
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # it was not registered, or is closed
            if events:
                self._epoll.register(fd, _MASK[events])
                self._interest[fd] = events

        def fold(self, fd: int, mask: int) -> int:
            """Return epoll's event bits of `fd` as those of its registered events."""
            events = ERRORS if mask & (select.EPOLLERR | select.EPOLLHUP) else 0
            if mask & ~select.EPOLLIN:
                events |= EVENT_WRITE
            if mask & ~select.EPOLLOUT:
                events |= EVENT_READ
            return events & self._interest[fd]

        def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
            """Return the ready keys with their events, as `BaseSelector.select`."""
            if timeout is not None and timeout < 0:
                timeout = 0
            watched = max(1, len(self.get_map()))
            return [
                (SelectorKey(fd, fd, self._interest[fd], None), events)
                for fd, mask in self._epoll.poll(timeout, watched)
                if (events := self.fold(fd, mask))
            ]

        def get_key(self, fileobj: Any) -> SelectorKey:
            """Return the key of `fileobj`. Raises KeyError if it is not registered."""
            fd = _descriptor(fileobj)
            events = self._interest[fd] if fd < len(self._interest) else 0
            if not events:
                raise KeyError(f"{fileobj!r} is not registered")
            return SelectorKey(fileobj, fd, events, None)

        def get_map(self) -> Mapping[Any, SelectorKey]:
            """Return a live view from registered descriptors to their keys."""
            return _FlatMap(self, self._interest)

        def close(self) -> None:
            """Close the epoll descriptor, and unregister everything."""
            self._interest.clear()
            super().close()

    _MASK = {
        EVENT_READ: select.EPOLLIN,
        EVENT_WRITE: select.EPOLLOUT,
        EVENT_READ | EVENT_WRITE: select.EPOLLIN | select.EPOLLOUT,
        # epoll always reports errors and hang-ups, and would do so again and again: epoll_ctl(2).
        ERRORS: select.EPOLLET,
        EVENT_READ | EXCLUSIVE: select.EPOLLIN | select.EPOLLEXCLUSIVE,
    }

    class _FlatMap(Mapping[Any, SelectorKey]):
        def __init__(self, selector: FlatSelector, interest: bytearray) -> None:
            self._selector = selector
            self._interest = interest

        def __len__(self) -> int:
            return len(self._interest) - self._interest.count(0)

        def __iter__(self) -> Iterator[int]:
            return (fd for fd, events in enumerate(self._interest) if events)

        def __getitem__(self, fileobj: Any) -> SelectorKey:
            return self._selector.get_key(fileobj)


def _descriptor(fileobj: Any) -> int:
    fd: int = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def default_selector() -> BaseSelector:
    """Return the best selector of the platform: a `DefaultSelector`, the flat one where it is epoll."""
    if sys.platform == "linux" and issubclass(FlatSelector, selectors.DefaultSelector):
        return FlatSelector()
    return selectors.DefaultSelector()


def poll_of(selector: BaseSelector) -> tuple[Poll, Fold]:
    """Return the poll function of `selector`, and the function that folds its bits into events.

    The first takes a timeout in seconds and a limit of events, which selectors other than epoll may exceed.
    """
    if sys.platform == "linux" and isinstance(selector, FlatSelector):
        return selector.poll, selector.fold

    def poll(timeout: float | None, limit: int) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in selector.select(timeout)]

    def fold(fd: int, events: int) -> int:
        return events

    return poll, fold
