"""`Room`: the members of a room that are in this process, and the topic that joins all processes.

What is said is published to the topic, and shown here when it comes back: so all see it in the same order.
While the other processes can't be reached it is shown at once, and not again when it does come back.
What has not come back goes on with the members when their process is restarted meanwhile: the next one
publishes it again, with its numbers, by which a message that was published twice is shown once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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

#: Messages of the broker's history among which such a member is looked for, if it is not among those, and
#: of which members are shown what they have missed before the history could be read.
SEARCHED = 1000

#: Lines that a new member is shown.
LAST = 10

#: Seconds in which it must be found.
PLACE_TIMEOUT = 2.0

# Seconds between attempts to read the history.
_PAUSE = 0.05

# Attempts when others can be reached again, for which members are shown nothing: their connections may be
# lost once more before all is well.
_ATTEMPTS = 40

_GAP = "some lines may be missing here"

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
        self._late: dict[Occupant, Position | None] = {}  # who came while the history could not be read
        self._missed: dict[Occupant, list[Message]] = {}  # what some of these three are not shown now
        self._unread = False  # the history could not be read: others could not be reached
        self._last: Position | None = None  # the last message that has come, or that of the history
        self._attempts = 0  # that are left
        self._seen: set[Position] = set()  # what has come while the history could not be read
        self._early: dict[str, tuple[int, int]] = {}  # numbers that were shown before they come, by process
        self._retry: Handle | None = None
        self._sent: deque[_Sent] = deque()
        self._waiting: Counter[str] = Counter()  # of these, by the process that has published them first
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
        if self._unread:
            self._late.setdefault(member, None)

    def remove(self, member: Occupant) -> bool:
        """Remove `member`; return whether it was here, and not just arriving."""
        self._arriving.pop(member, None)
        self._late.pop(member, None)
        return self._hide(member)

    def _hide(self, member: Occupant) -> bool:
        members = self.members.get(member.client, {})
        here = member in members or member in self._missed
        for table in (members, self._frozen, self._behind, self._missed):
            table.pop(member, None)
        if not members:
            self.members.pop(member.client, None)
        return here

    def _is_shown(self, member: Occupant) -> bool:
        return member in self.members.get(member.client, {})

    def last_lines(self) -> list[Message]:
        """Return the last lines that were said."""
        return _last_lines(self.recent)

    # Handing members over

    def position(self, member: Occupant) -> Position | None:
        """Return the topic's last message up to which `member` has seen all; None: none, or no process."""
        return self._late.get(member, self._last) if self._node else None

    def unsent(self) -> list[tuple[str, bool]]:
        """Return the messages for the process that goes on with the members, and whether they were shown.

        They have not come back, and this process may end before it can send them. Nobody is frozen yet.
        """
        up = self._backplane.state is BackplaneState.UP
        if self._frozen or not self._sent or not self._node or (up and not self._sent[0].shown):
            return []
        return [(sent.data.decode(), sent.shown) for sent in self._sent]

    def adopt(self, unsent: Sequence[tuple[str, bool]]) -> int:
        """Publish what the process before has not sent, as it is; return how many were accepted.

        Its members here were shown those which say so.
        """
        accepted = 0
        for text, shown in unsent:
            data = text.encode()
            message = Message.decode(data)
            if self._was_early(message) or not self._backplane.publish(self.topic, data):
                continue  # it came with another member, or is refused, which is logged
            accepted += 1
            self._wait_for(_Sent(data, message, [], shown))
            if shown:
                self._show_now(message)
        return accepted

    def freeze(self, member: Occupant) -> None:
        """Keep what `member` would be shown, if another process may show it the same."""
        if self._node and self._is_shown(member):
            self._hide(member)
            self._frozen[member] = None
            self._missed[member] = []

    def thaw(self, member: Occupant) -> None:
        """Show `member` what it has missed: it stays in this process."""
        if member not in self._frozen:
            return
        del self._frozen[member]
        if self._unread and not self.loaded:
            return  # it is shown what comes when the history was read
        if not self._unread and member in self._late:
            del self._late[member]
            self._skip(member, [])
        self._catch_up(member)

    def go_on(self, member: Occupant, position: Position | None) -> None:
        """Show `member`, that was in another process, what comes after `position`."""
        if self._unread:
            self._late[member] = position
        if position is None or self._unread or not self._node:
            self.add(member)
            return
        later = self._after(position, self.recent)
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
        later = self._after(self._behind[member], _decoded(history))
        if later is None:
            return
        while later and _place(later[-1]) != self._last:
            later.pop()  # it is to come
        known = set(map(_place, later))
        later += [message for message in self._missed[member] if _place(message) not in known]
        self._missed[member] = later
        self._catch_up(member)

    def _stop_waiting(self, member: Occupant) -> None:
        """Show `member` what comes, if its position has not come."""
        if member in self._behind:
            member.write(member.client.encode(_GAP))
            self._catch_up(member)

    def _catch_up(self, member: Occupant) -> None:
        """Show `member` what it has missed, and what comes."""
        missed = self._missed[member]
        self._hide(member)
        for message in missed:
            member.write(member.client.encode(message))
        self.add(member)

    def _after(self, position: Position, messages: Sequence[Message]) -> list[Message] | None:
        """Return those after a position that were not shown before they came; None: it is not among them."""
        later: list[Message] = []
        for message in reversed(messages):
            if _place(message) == position:
                return [each for each in reversed(later) if not self._was_early(each)]
            later.append(message)
        return None

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
        self._wait_for(sent)
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
        for member in (*self._arriving, *self._late):
            if member not in self._frozen and not self._is_shown(member):
                member.write(member.client.encode(text))

    def set_apart(self, apart: bool) -> None:
        """Show what is said at once, from now on, or when it comes back."""
        self.apart = apart
        if not apart:
            self._read_late()
            return
        if self._retry is not None:
            self._retry.cancel()
            self._attempts = 0
            self._load(None)
        for sent in list(self._sent):  # a command that waits for one may add others
            if not sent.shown:
                self._show_early(sent)

    def _show_early(self, sent: _Sent) -> None:
        sent.shown = True
        self._show_now(sent.message)
        sent.was_shown()

    def _show_now(self, message: Message) -> None:
        first, _ = self._early.get(message.node, (message.number, 0))
        self._early[message.node] = first, message.number
        self._show(message)

    def _was_early(self, message: Message) -> bool:
        first, last = self._early.get(message.node, (1, 0))
        return first <= message.number <= last

    def _on_message(self, topic: str, data: bytes) -> None:
        is_next = self._sent and self._sent[0].data == data
        message = self._sent[0].message if is_next else Message.decode(data)
        self._read_late()
        is_new = message.number > self._latest.get(message.node, 0)
        if is_new:
            self._show(message)
        if (self._take_back(message) or is_new) and message.kind in KINDS:
            self._last = _place(message)

    def _wait_for(self, sent: _Sent) -> None:
        self._sent.append(sent)
        self._waiting[sent.message.node] += 1

    def _take_back(self, message: Message) -> bool:
        """Wait no more for this message and those before it, which are lost; return whether it was due."""
        count = len(self._sent)
        while self._waiting[message.node]:
            first = self._sent[0].message
            if first.node == message.node and first.number > message.number:
                break
            self._waiting[first.node] -= 1
            self._sent.popleft().was_shown()
        return len(self._sent) < count

    def _on_gap(self, topic: str, missed: int | None) -> None:
        for sent in list(self._sent):
            sent.was_shown()  # or is lost
        if missed is None:
            self._write(_GAP)
        else:
            self._write(f"{missed} line{'s'[: missed != 1]} {'were' if missed != 1 else 'was'} lost here")

    def _read(self) -> None:
        self._retry = None
        self._backplane.read_last(self.topic, SEARCHED if self._unread else KEPT, self._load)

    def _load(self, history: list[bytes] | None) -> None:
        """Take the history for what was shown before, up to what has come meanwhile.

        A process that has just started is not connected yet: it tries again, until others can't be reached.
        Then the history is read when they can be again.
        """
        if not self._subscription.active:
            return
        if history is None and (self._attempts or not self.apart):
            self._attempts = max(0, self._attempts - 1)
            self._retry = self._call_later(_PAUSE, self._read)
            return
        messages = _decoded(history)
        self._unread, unread = history is None, self._unread
        if unread:
            self._end_late(messages)
        known = set(map(_place, self.recent))
        older = [message for message in messages if _place(message) not in known]
        self.recent = deque([*older, *self.recent], KEPT)
        for message in older:
            self._note(message)
        if messages and (self._last is None or self._last in map(_place, messages)):
            self._last = _place(messages[-1])
        self.loaded = True
        arriving, self._arriving = self._arriving, {}
        for callback in arriving.values():
            callback()

    # The history that could not be read

    def _read_late(self) -> None:
        """Read the history if that was not possible before; what comes meanwhile is shown after it."""
        if self._unread and self.loaded:
            self.loaded, self._attempts = False, _ATTEMPTS
            for member in self._late:
                if member not in self._missed:
                    self._hide(member)
                    self._missed[member] = []
            self._read()

    def _end_late(self, messages: list[Message]) -> None:
        """Show those who are here what the history has; if it could not be read, what has come meanwhile."""
        if self._unread:
            self._seen.update(_place(message) for missed in self._missed.values() for message in missed)
        else:
            for member, position in self._late.items():
                if member not in self._frozen:
                    self._show_late(member, position, messages)
            self._late = {member: place for member, place in self._late.items() if member in self._frozen}
            self._seen.clear()
        for member in [member for member in self._missed if member not in self._frozen]:
            self._catch_up(member)

    def _show_late(self, member: Occupant, position: Position | None, messages: list[Message]) -> None:
        missed = self._missed[member]
        later = None if position is None else self._after(position, messages)
        if later is None:
            come = set(map(_place, missed))
            start = next((n for n, message in enumerate(messages) if _place(message) in come), len(messages))
            self._skip(member, _last_lines(self._unseen(messages[:start])), told=position is None)
            later = messages[start:]
        known = set(map(_place, later))
        missed[:] = [
            *self._unseen(later), *(message for message in missed if _place(message) not in known)
        ]  # fmt: skip

    def _unseen(self, messages: Sequence[Message]) -> list[Message]:
        return [each for each in messages if not (self._was_early(each) or _place(each) in self._seen)]

    def _skip(self, member: Occupant, lines: list[Message], *, told: bool = False) -> None:
        """Show `member` the last lines only; unless `told`, it is told that some may be missing before."""
        if not told:
            member.write(member.client.encode(_GAP))
        if lines:
            member.write(member.client.encode_past(lines))

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


def _last_lines(messages: Iterable[Message]) -> list[Message]:
    return [message for message in messages if message.kind == SAID][-LAST:]


def _decoded(history: list[bytes] | None) -> list[Message]:
    """Return the messages of a history, each once."""
    messages: dict[Position, Message] = {}
    for data in history or ():
        try:
            message = Message.decode(data)
        except ValueError:
            continue  # it was reported when it came
        if message.kind in KINDS:
            messages.setdefault(_place(message), message)
    return list(messages.values())
