"""`SendQueue`: the datagrams that the kernel did not take yet, in order, each with its deadline."""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["Pending", "SendQueue"]

#: Limits of a run that the kernel cuts into datagrams (GSO): UDP_MAX_SEGMENTS was 64 until Linux 6.9, and
#: all together must fit the length field of an IPv4 packet.
SEGMENTS = 64
RUN_BYTES = 65535 - 20 - 8


#: A queued datagram: its bytes, its address (None: the connected one), and when it is dropped.
Pending = tuple[bytes, Any, float]


class SendQueue:
    """A queue of datagrams. `size`: their bytes."""

    __slots__ = ("_items", "size")

    def __init__(self) -> None:
        self._items: deque[Pending] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    def append(self, data: bytes, address: Any, due: float) -> None:
        """Append a datagram. due: in the clock's seconds."""
        self._items.append((data, address, due))
        self.size += len(data)

    def first(self) -> Pending:
        """Return the first datagram."""
        return self._items[0]

    def run(self) -> list[bytes]:
        """Return the datagrams from the first one on that one call can send.

        They have one address and one size, but for the last, which may be shorter (UDP_SEGMENT, udp(7)).
        """
        first, target, _ = self._items[0]
        run, total = [first], len(first)
        segment = total
        for data, address, _ in self._rest(SEGMENTS):
            size = len(data)
            total += size
            if size > segment or not size or address != target or total > RUN_BYTES:
                break
            run.append(data)
            if size < segment:
                break
        return run

    def _rest(self, limit: int) -> list[Pending]:
        count = min(limit, len(self._items))
        return [self._items[index] for index in range(1, count)]

    def remove(self, count: int) -> None:
        """Remove the first `count` datagrams."""
        for _ in range(count):
            self.size -= len(self._items.popleft()[0])

    def remove_due(self, now: float) -> int:
        """Remove the datagrams whose deadline has passed at `now`, and return how many."""
        count = 0
        while self._items and self._items[0][2] <= now:
            self.remove(1)
            count += 1
        return count

    def recover(self) -> None:
        """Count the bytes again, after an interrupt anywhere."""
        self.size = sum(len(data) for data, _, _ in self._items)

    def clear(self) -> int:
        """Remove all datagrams, and return how many."""
        count = len(self._items)
        self._items.clear()
        self.size = 0
        return count
