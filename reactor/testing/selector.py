"""`MemorySelector`: a selector over descriptors in memory, and over the real ones of a wake-up."""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from typing import Any

from reactor.testing.network import FIRST_DESCRIPTOR, Network

__all__ = ["MemorySelector"]


class MemorySelector(selectors.BaseSelector):
    """Never waits, and tells what is ready in an order that the network's seed decides.

    As the standard selectors do, it swallows what epoll_ctl(2) says to a removal and what
    epoll_wait(2) says to a signal, and after a refused change it may have forgotten the descriptor.

    left: what was still registered when it was closed.
    """

    def __init__(self, network: Network) -> None:
        self.left: dict[int, SelectorKey] | None = None
        self._network = network
        self._keys: dict[int, SelectorKey] = {}
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        fd = _descriptor(fileobj)
        assert events, "registered for nothing"
        if fd in self._keys:
            raise KeyError(f"{fd} is registered already")
        self._network.call("register")
        if fd < FIRST_DESCRIPTOR:
            self._real.register(fd, events)
        else:
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
        self._network.random.shuffle(ready)
        return ready

    def ready(self) -> list[tuple[SelectorKey, int]]:
        """Return what is ready, without the call that may fail."""
        ready = [(self._keys[key.fd], events) for key, events in self._real.select(0)]
        for fd in sorted(self._network.watched):
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
        self._real.close()

    def _forget(self, fd: int) -> SelectorKey:
        if fd in self._network.watched:
            self._network.watched.remove(fd)
        elif self._real.get_map() is not None and fd in self._real.get_map():
            self._real.unregister(fd)
        return self._keys.pop(fd)

    def _check_open(self, fd: int) -> None:
        if fd >= FIRST_DESCRIPTOR and fd not in self._network.descriptors:
            self._network.complaints.append(f"descriptor {fd} was registered, and is closed")


def _descriptor(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()
