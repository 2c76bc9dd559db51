"""`Outbox`: the messages that the broker has not acknowledged yet. It does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from secrets import token_hex

import attrs

__all__ = ["ON_THE_WAY", "ON_THE_WAY_BYTES", "Outbox"]

#: Messages, and about as many bytes, that are sent before the first of them is acknowledged: other commands,
#: as heartbeats and what is read, wait behind them.
ON_THE_WAY = 1000
ON_THE_WAY_BYTES = 256 * 1024


def _new_id() -> str:
    return token_hex(8)


@attrs.define(eq=False)
class Outbox:
    """The messages that the broker has not acknowledged yet, in order.

    Each has a number, one above that of the message before. The broker keeps the last number of a publisher,
    ignores what is not above it, and refuses what leaves one out: so a message that is sent again, because
    the connection was lost before its acknowledgement, is neither doubled nor out of order.

    publisher: the name by which the broker knows the number. size: bytes of the messages.
    acknowledged: the number of the last message that was.
    """

    new_id: Callable[[], str] = _new_id
    publisher: str = ""
    size: int = 0
    acknowledged: int = 0
    _sent: deque[tuple[str, bytes]] = attrs.field(factory=deque)
    _sent_size: int = 0
    _unsent: deque[tuple[str, bytes]] = attrs.field(factory=deque)

    def __attrs_post_init__(self) -> None:
        self.publisher = self.new_id()

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    @property
    def may_send(self) -> bool:
        """Whether another message may be sent before some of those on their way are acknowledged."""
        return len(self._sent) < ON_THE_WAY and self._sent_size < ON_THE_WAY_BYTES

    def add(self, topic: str, data: bytes) -> None:
        """Add a message at the end."""
        self._unsent.append((topic, data))
        self.size += len(data)

    def next(self) -> tuple[int, str, bytes] | None:
        """Return the number, topic and data of the message to send next, which counts as sent; None: none."""
        if not self._unsent:
            return None
        message = self._unsent.popleft()
        self._sent.append(message)
        self._sent_size += len(message[1])
        return self.acknowledged + len(self._sent), *message

    def acknowledge(self) -> None:
        """Remove the first of the messages that were sent: the broker has it."""
        size = len(self._sent.popleft()[1])
        self.size -= size
        self._sent_size -= size
        self.acknowledged += 1

    def resume(self, last: int | None) -> None:
        """Send again what was not acknowledged: the connection is a new one.

        last: the last number of this publisher that the broker knows, or None. If it has forgotten some that
        it had acknowledged, the numbers would leave some out there: then they are those of a new publisher.
        """
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sent_size = 0
        if self.acknowledged > (last or 0):
            self.publisher = self.new_id()

    def clear(self) -> int:
        """Drop all messages, and return how many."""
        count = len(self)
        self._sent.clear()
        self._unsent.clear()
        self.size = self._sent_size = 0
        return count
