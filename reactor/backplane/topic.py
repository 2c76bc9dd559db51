"""`Topic`: which messages of a topic this process has passed on, and which come next. It does no I/O.

A live message is passed on if it is the next one. If one is missing before it, or the topic's epoch has
changed, it is kept while the history is read, from the last message on; what the history does not have is a
gap. A subscription begins, and goes on after a reconnection, in the same way: subscribe first, then read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import attrs

from reactor.backplane.interface import Subscription

__all__ = ["KEPT", "KEPT_BYTES", "Live", "Read", "Topic", "offset_of"]

#: Live messages that are kept while the history is read, and their bytes; further ones are read from the
#: history.
KEPT = 1000
KEPT_BYTES = 4 * 1024 * 1024


class Live(Enum):
    """The outcome for a live message: pass it on, drop it, or wait for the history."""

    DELIVER = "deliver"
    DUPLICATE = "duplicate"
    KEPT = "kept"  # the history is being read, or about to be
    READ = "read"  # kept, and the history is to be read


@attrs.frozen
class Read:
    """The history of a topic from the reader's last message on, as the broker has it.

    epoch: the topic's. head: the ID of its last message.
    before: the epoch before. base: the ID of its last message.
    messages: IDs and data.
    """

    epoch: bytes
    head: bytes
    before: bytes
    base: bytes
    messages: Sequence[tuple[bytes, bytes]]


def offset_of(ident: bytes) -> int:
    """Return the offset in a message's ID. Raises ValueError if it is none."""
    return int(ident.partition(b"-")[2])


def _order_of(ident: bytes) -> tuple[int, int]:
    time, _, offset = ident.partition(b"-")
    return int(time), int(offset)


@attrs.define(eq=False)
class Topic:
    """The position of this process in a topic.

    name, key: the topic's. subscribers: of this process.
    epoch: None until the topic was read first. last, offset: the ID and offset of the last message passed on.

    These say what is due, and what comes with a message:

    subscribed  the broker has confirmed it, so that live messages come
    reading     the history is to be read; again: once more after that, because of what has happened meanwhile
    waiting     it was not asked for yet, because others are being read
    live        messages follow the last one passed on: the next one is passed on, else the history is read;
                before that they are kept until it was
    """

    name: str
    key: bytes
    subscribers: tuple[Subscription, ...] = ()
    epoch: bytes | None = None
    last: bytes = b"0-0"
    offset: int = 0
    subscribed: bool = False
    reading: bool = False
    waiting: bool = False
    again: bool = False
    live: bool = False
    _kept: list[tuple[bytes, bytes, bytes]] | None = None
    _kept_bytes: int = 0
    _gap_after: int | None = None  # an offset behind which a gap is to be reported

    # Live messages

    def receive(self, epoch: bytes, ident: bytes, data: bytes) -> Live:
        """Classify a live message, and count it as passed on or keep it. Raises ValueError for a wrong ID."""
        offset = offset_of(ident)
        if self.live:
            if epoch == self.epoch:
                if offset == self.offset + 1:
                    self.offset, self.last = offset, ident
                    return Live.DELIVER
                if offset <= self.offset and _order_of(ident) <= _order_of(self.last):
                    return Live.DUPLICATE
            self.live = False
            self._keep(epoch, ident, data)
            return Live.READ
        self._keep(epoch, ident, data)
        return Live.KEPT

    def _keep(self, epoch: bytes, ident: bytes, data: bytes) -> None:
        if self._kept is None:
            self._kept, self._kept_bytes = [], 0
        if len(self._kept) < KEPT and self._kept_bytes + len(data) <= KEPT_BYTES:
            self._kept.append((epoch, ident, data))
            self._kept_bytes += len(data)
        else:
            self.again = True  # it is in the history when that is read once more

    def lost_live(self) -> None:
        """Note that no live messages come any more: the connection was lost."""
        self.subscribed = self.live = False
        self._kept = None

    def lost_history(self) -> None:
        """Note that no answer of the history comes any more: the connection was lost."""
        self.reading = self.waiting = self.again = False

    def wants_history(self) -> bool:
        """Return whether the history is to be read now, and is not being read."""
        return not (self.reading or self.live) and (self.subscribed or self.epoch is None)

    # The history

    def start(self, read: Read) -> None:
        """Begin after the last message of the topic."""
        self.epoch, self.last, self.offset = read.epoch, read.head, offset_of(read.head)

    def catch_up(
        self,
        read: Read,
        *,
        complete: bool,
        on_message: Callable[[bytes], object],
        on_gap: Callable[[int | None], object],
    ) -> None:
        """Pass on what the history has, and report what it has not.

        complete: whether all up to its head was read. on_message, on_gap: called in the messages' order.
        """
        self._change_epoch(read, on_gap)
        for ident, data in read.messages:
            offset = offset_of(ident)
            if _order_of(ident) > _order_of(self.last):
                self._go_back(offset - 1, on_gap)
                self._advance(offset - 1, on_gap)
                self.offset, self.last = offset, ident
                on_message(data)
        if complete:
            undone = _order_of(read.head) < _order_of(self.last)  # by a broker whose clock is behind
            self._go_back(offset_of(read.head), on_gap, undone=undone)
            self._advance(offset_of(read.head), on_gap)
            self.last = read.head
            if self._gap_after is not None:
                self._gap_after = None
                on_gap(None)

    def _advance(self, offset: int, on_gap: Callable[[int | None], object]) -> None:
        """Report the messages up to `offset` as missing, and the gap that is due before the next one."""
        if offset > self.offset:
            missed, self.offset = offset - self.offset, offset
            on_gap(missed)
        if self._gap_after is not None and self.offset >= self._gap_after:
            self._gap_after = None
            on_gap(None)

    def _change_epoch(self, read: Read, on_gap: Callable[[int | None], object]) -> None:
        """Go over to the epoch that was read; report that messages may be missing between the two."""
        if read.epoch == self.epoch:
            return
        base = offset_of(read.base)
        follows = read.before == self.epoch and self.offset <= base
        self.epoch = read.epoch
        if follows:
            self._gap_after = base
        else:
            self.offset, self.last, self._gap_after = base, read.base, None
            on_gap(None)

    def _go_back(self, offset: int, on_gap: Callable[[int | None], object], *, undone: bool = False) -> None:
        """Go on after `offset` if that is an earlier one: the broker has lost some, and does not know it.

        undone: the last one was lost, whatever the offset: others have got those offsets since.
        """
        if undone or offset < self.offset:
            self.offset = offset
            on_gap(None)

    def go_live(self) -> list[tuple[bytes, bytes, bytes]]:
        """Follow live messages from now on; return those that were kept while the history was read."""
        kept, self._kept = self._kept or [], None
        self.live = True
        return kept

    def fall_behind(self) -> None:
        """Follow live messages no more, until the history was read again, which has those that were kept."""
        self.live = False
        self._kept = None
