"""`MemorySelector`: a selector of descriptors in memory, which waits by advancing the clock."""

from __future__ import annotations

import errno
import selectors
from collections.abc import Callable, Mapping
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from typing import Any

from reactor.testing.host import error
from reactor.testing.network import Network

__all__ = ["MemorySelector"]


class MemorySelector(selectors.BaseSelector):
    """A selector of descriptors in memory, which returns events in an order decided by the network's seed.

    Like the standard selectors it ignores errors of epoll_ctl(2) at a removal and EINTR of epoll_wait(2),
    and may lose the registration at a failed change.

    wait: called as `wait(selector, timeout)` if nothing is ready and the timeout is not 0.

    left: the descriptors that were still registered when it was closed.
    """

    def __init__(
        self,
        network: Network,
        wait: Callable[[MemorySelector, float | None], object] = lambda selector, timeout: None,
    ) -> None:
        self.left: dict[int, SelectorKey] | None = None
        self._network = network
        self._wait = wait
        self._keys: dict[int, SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        fd = _descriptor(fileobj)
        assert events, "registered for nothing"
        if fd in self._keys:
            raise KeyError(f"{fd} is registered already")
        self._network.call("register")
        self._check_open(fd)
        self._network.watched.add(fd)
        key = self._keys[fd] = SelectorKey(fileobj, fd, events, data)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        fd = _descriptor(fileobj)
        assert events, "changed to nothing"
        if fd not in self._keys:
            raise KeyError(f"{fd} is not registered")
        try:
            self._network.call("modify")
        except OSError:
            if self._network.random.getrandbits(1):
                self._forget(fd)
            raise
        self._check_open(fd)
        key = self._keys[fd] = SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        fd = _descriptor(fileobj)
        if fd not in self._keys:
            raise KeyError(f"{fd} is not registered")
        try:
            self._network.call("unregister")
        except OSError:
            pass  # every selector of the standard library does this
        return self._forget(fd)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        try:
            self._network.call("select")
        except InterruptedError:
            return []
        ready = self.ready()
        if not ready and (timeout is None or timeout > 0):
            self._wait(self, timeout)
            ready = self.ready()
        self._network.random.shuffle(ready)
        return ready

    def ready(self) -> list[tuple[SelectorKey, int]]:
        """Return the ready keys and events, without counting a system call."""
        ready = []
        for fd in sorted(self._keys):
            key = self._keys[fd]
            readable, writable = self._network.descriptors[fd].end.ready()
            if events := (EVENT_READ * readable | EVENT_WRITE * writable) & key.events:
                ready.append((key, events))
        return ready

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._keys

    def close(self) -> None:
        if self.left is None:
            self.left = dict(self._keys)
        for fd in list(self._keys):
            self._forget(fd)

    def _forget(self, fd: int) -> SelectorKey:
        self._network.watched.discard(fd)
        return self._keys.pop(fd)

    def _check_open(self, fd: int) -> None:
        if fd not in self._network.descriptors:
            self._network.complaints.append(f"descriptor {fd} was registered, and is none of this network")
            raise error(errno.EBADF)


def _descriptor(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()
