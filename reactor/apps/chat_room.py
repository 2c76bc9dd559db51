"""`Room`: the members of a room that are in this process, and the topic that joins all processes.

What is said is published to the topic, and shown here when it comes back: so all see it in the same order.
While the other processes can't be reached it is shown at once, and not again when it does come back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from typing import Protocol as Interface

import attrs

from reactor.apps.chat_message import KINDS, SAID, Message
from reactor.backplane import Backplane, BackplaneState
from reactor.loop.timers import Handle

__all__ = ["KEPT", "LAST", "ROOM_LIMIT", "Client", "Occupant", "Position", "Room"]

#: The limit of members, in this process, up to which joins, leaves and new names are announced, and of names
#: that /who lists. The notices of a larger room would grow with the square of its members.
ROOM_LIMIT = 100

#: Messages of a room that are kept: for a member of another process that goes on here.
KEPT = 100

#: Messages of the broker's history among which such a member is looked for, if it is not among those.
SEARCHED = 1000

#: Lines that a new member is shown.
LAST = 10

#: Seconds in which it must be found.
PLACE_TIMEOUT = 2.0

# Seconds between attempts to read the history.
_PAUSE = 0.05

# Processes whose last message is remembered.
_NODES = 1000

#: A message by its process and number, as a place in the order of the topic.
Position = tuple[str, int]


@attrs.frozen(eq=False)
class Client:
    """A kind of client.

    encode: returns a message, or the text of a notice, as bytes for `Occupant.write`, once for all clients.
    encode_past: returns the last lines of a room, which a new member is shown, in the same way.
    state: returns the name and room of a member, too; None: such clients are not informed.
    """

    encode: Callable[[Message | str], bytes]
    encode_past: Callable[[list[Message]], bytes]
    state: Callable[[Any], bytes] | None = None


class Occupant(Interface):
    """Interface of a member, as a room uses it."""

    client: Client
    write: Callable[[bytes], bool]
    name: str

    def is_slow(self) -> bool:
        """Return whether it does not keep up, after `write` has returned False."""


@attrs.define(eq=False)
class _Sent:
    """A message of this process that has not come back.

    shown: it was, while others could not be reached. on_shown: called when it is, or when it is lost.
    """

    data: bytes
    message: Message
    on_shown: list[Callable[[], object]]
    shown: bool = False

    def was_shown(self) -> None:
        """Call `on_shown`, once."""
        callbacks, self.on_shown = self.on_shown, []
        for callback in callbacks:
            callback()


class Room:
    """A room.

    name: its own. members: those here, by the kind of their client, in the order in which they joined.
    recent: the last messages. apart: whether others can't be reached. loaded: whether the history was read.
    on_slow: called with a message that a member here was too slow for.
    """

    def __init__(
        self,
        name: str,
        backplane: Backplane,
        node: str,
        numbers: Iterator[int],
        call_later: Callable[..., Handle],
        on_slow: Callable[[Message], object],
        *,
        apart: bool,
    ) -> None:
        self.name = name
        self.topic = f"chat:room:{name}"
        self.members: dict[Client, dict[Occupant, None]] = {}
        self.recent: deque[Message] = deque(maxlen=KEPT)
        self.apart = apart
        self.loaded = False
        self._backplane = backplane
        self._node = node
        self._numbers = numbers
        self._call_later = call_later
        self._on_slow = on_slow
        self._arriving: dict[Occupant, Callable[[], object]] = {}  # until the history is read
        self._behind: dict[Occupant, Position] = {}  # until that message comes; they miss as well
        self._frozen: dict[Occupant, None] = {}  # being handed over
        self._missed: dict[Occupant, list[Message]] = {}  # what those who are behind or frozen are not shown
        self._retry: Handle | None = None
        self._sent: deque[_Sent] = deque()
        self._latest: dict[str, int] = {}  # the number of the last message of each process
        self._subscription = backplane.subscribe(self.topic, self._on_message, self._on_gap)
        self._read()

    def __len__(self) -> int:
        return sum(map(len, self.members.values())) + len(self._missed)

    def __iter__(self) -> Iterator[Occupant]:
        for members in self.members.values():
            yield from members
        yield from self._missed

    def is_large(self) -> bool:
        """Return whether joins, leaves and new names are not announced."""
        return len(self) > ROOM_LIMIT

    def is_empty(self) -> bool:
        """Return whether nobody is here, or about to be."""
        return not (self or self._arriving)

    def close(self) -> None:
        """Receive nothing more."""
        self._subscription.cancel()
        if self._retry is not None:
            self._retry.cancel()

    # Members

    def when_loaded(self, member: Occupant, callback: Callable[[], object]) -> None:
        """Call `callback` when the history was read, unless `member` is removed before."""
        if self.loaded:
            callback()
        else:
            self._arriving[member] = callback

    def add(self, member: Occupant) -> None:
        """Show `member` what comes from now on."""
        self.members.setdefault(member.client, {})[member] = None

    def remove(self, member: Occupant) -> bool:
        """Remove `member`; return whether it was here, and not just arriving."""
        self._arriving.pop(member, None)
        members = self.members.get(member.client, {})
        here = member in members or member in self._missed
        for table in (members, self._frozen, self._behind, self._missed):
            table.pop(member, None)
        if not members:
            self.members.pop(member.client, None)
        return here

    def last_lines(self) -> list[Message]:
        """Return the last lines that were said."""
        return [message for message in self.recent if message.kind == SAID][-LAST:]

    # Handing members over

    def position(self) -> Position | None:
        """Return the last message that was shown; None without any, or if there is no other process."""
        return _place(self.recent[-1]) if self.recent and self._node else None

    def freeze(self, member: Occupant) -> None:
        """Keep what `member` would be shown, if another process may show it the same."""
        if self._node and member in self.members.get(member.client, {}):
            self.remove(member)
            self._frozen[member] = None
            self._missed[member] = []

    def thaw(self, member: Occupant) -> None:
        """Show `member` what it has missed: it stays in this process."""
        if member in self._frozen:
            self._catch_up(member)

    def go_on(self, member: Occupant, position: Position | None) -> None:
        """Show `member`, that was in another process, what comes after `position`."""
        if position is None or not self._node:
            self.add(member)
            return
        later = _after(position, self.recent)
        self._missed[member] = later or []
        if later is not None:
            self._catch_up(member)
        else:
            self._behind[member] = position  # it is to come, or longer ago
            self._backplane.read_last(self.topic, SEARCHED, partial(self._search, member))
            self._call_later(PLACE_TIMEOUT, self._stop_waiting, member)

    def _search(self, member: Occupant, history: list[bytes] | None) -> None:
        """Show `member` what the history has behind its position, if it has that."""
        if member not in self._behind:
            return
        later = _after(self._behind[member], _decoded(history))
        if later is None:
            return
        last = self.position()
        while later and _place(later[-1]) != last:
            later.pop()  # it is to come
        known = set(map(_place, later))
        later += [message for message in self._missed[member] if _place(message) not in known]
        self._missed[member] = later
        self._catch_up(member)

    def _stop_waiting(self, member: Occupant) -> None:
        """Show `member` what comes, if its position has not come."""
        if member in self._behind:
            member.write(member.client.encode("some lines may be missing here"))
            self._catch_up(member)

    def _catch_up(self, member: Occupant) -> None:
        """Show `member` what it has missed, and what comes."""
        missed = self._missed[member]
        self.remove(member)
        for message in missed:
            member.write(member.client.encode(message))
        self.add(member)

    # Messages

    def post(
        self, kind: str, name: str, text: str, speaker: int, on_shown: Callable[[], object] | None = None
    ) -> bool:
        """Publish a message; return whether it was accepted.

        on_shown: called when it has been shown here, or is known to be lost.
        """
        if self._backplane.state is BackplaneState.CLOSED:
            return False  # with the reactor, whose connections end
        number = next(self._numbers)
        message = Message(kind, name, text, self.name, round(time.time(), 1), self._node, number, speaker)
        data = message.encode()
        if not self._backplane.publish(self.topic, data):
            return False
        sent = _Sent(data, message, [] if on_shown is None else [on_shown])
        self._sent.append(sent)
        if self.apart:
            self._show_early(sent)
        return True

    def when_shown(self, callback: Callable[[], object]) -> None:
        """Call `callback` when all that was posted here has been shown."""
        if self._sent and not self._sent[-1].shown:
            self._sent[-1].on_shown.append(callback)
        else:
            callback()

    def notify(self, text: str) -> None:
        """Show a notice to all members here, and to those who are about to be."""
        self._write(text)
        for member in self._arriving:
            member.write(member.client.encode(text))

    def set_apart(self, apart: bool) -> None:
        """Show what is said at once, from now on, or when it comes back."""
        self.apart = apart
        if apart and self._retry is not None:
            self._retry.cancel()
            self._load(None)
        for sent in self._sent if apart else ():
            if not sent.shown:
                self._show_early(sent)

    def _show_early(self, sent: _Sent) -> None:
        sent.shown = True
        self._show(sent.message)
        sent.was_shown()

    def _on_message(self, topic: str, data: bytes) -> None:
        is_next = self._sent and self._sent[0].data == data
        message = self._sent[0].message if is_next else Message.decode(data)
        if message.number > self._latest.get(message.node, 0):
            self._show(message)
        if message.node == self._node:
            while self._sent and self._sent[0].message.number <= message.number:
                self._sent.popleft().was_shown()  # those before this one are lost

    def _on_gap(self, topic: str, missed: int | None) -> None:
        for sent in list(self._sent):
            sent.was_shown()  # or is lost
        if missed is None:
            self._write("some lines may be missing here")
        else:
            self._write(f"{missed} line{'s'[: missed != 1]} {'were' if missed != 1 else 'was'} lost here")

    def _read(self) -> None:
        self._retry = None
        self._backplane.read_last(self.topic, KEPT, self._load)

    def _load(self, history: list[bytes] | None) -> None:
        """Take the history for what was shown before, up to what has come meanwhile.

        A process that has just started is not connected yet: it tries again, until others can't be reached.
        """
        if not self._subscription.active:
            return
        if history is None and not (self.apart or self.loaded):
            self._retry = self._call_later(_PAUSE, self._read)
            return
        known = set(map(_place, self.recent))
        older = [message for message in _decoded(history) if _place(message) not in known]
        self.recent = deque([*older, *self.recent], KEPT)
        for message in older:
            self._note(message)
        self.loaded = True
        arriving, self._arriving = self._arriving, {}
        for callback in arriving.values():
            callback()

    def _note(self, message: Message) -> None:
        """Note that all messages of that process up to this one are known."""
        latest = self._latest
        latest[message.node] = max(message.number, latest.get(message.node, 0))
        if len(latest) > _NODES:
            del latest[next(iter(latest))]

    def _show(self, message: Message) -> None:
        self._note(message)
        if message.kind not in KINDS:
            return  # of a later version
        self.recent.append(message)
        if self._write(message):
            self._on_slow(message)
        if self._missed:
            self._show_later(message)

    def _write(self, what: Message | str) -> bool:
        """Write it to all members here, encoded once; return whether one of them does not keep up."""
        slow = False
        for client, members in self.members.items():
            data = client.encode(what)
            for member in members:
                if not member.write(data) and member.is_slow():
                    slow = True
        return slow

    def _show_later(self, message: Message) -> None:
        """Keep a message for those who are not shown it now; those who are behind may have seen it."""
        for missed in self._missed.values():
            missed.append(message)
        for member in [member for member, last in self._behind.items() if last == _place(message)]:
            self.remove(member)
            self.add(member)


def _place(message: Message) -> Position:
    return message.node, message.number


def _after(position: Position, messages: Sequence[Message]) -> list[Message] | None:
    """Return the messages after a position; None if it is not among them."""
    later: list[Message] = []
    for message in reversed(messages):
        if _place(message) == position:
            return later[::-1]
        later.append(message)
    return None


def _decoded(history: list[bytes] | None) -> list[Message]:
    messages = []
    for data in history or ():
        try:
            messages.append(Message.decode(data))
        except ValueError:
            pass  # it was reported when it came
    return [message for message in messages if message.kind in KINDS]
