"""`Room`: a room as one process has it, and the topic that joins it with those of all others.

What is said is published to the topic, and shown here when it comes back: so all see it in the same order.
While the other processes can't be reached it is shown at once, and not again when it does come back.
What has not come back goes on with the members when their process is restarted meanwhile: the next one
publishes it again, with its numbers, by which a message that was published twice is shown once.

`chat_outbox` has what was published and has not come back, `chat_history` the last messages, `chat_audience`
the members that are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial

from reactor.apps.chat_audience import Audience, Hold, Occupant, Reason
from reactor.apps.chat_history import KEPT, History, after, decode_history, last_lines
from reactor.apps.chat_message import KINDS, Message, Position
from reactor.apps.chat_outbox import Outbox, Sent
from reactor.backplane import Backplane, BackplaneState
from reactor.loop.timers import Handle

__all__ = ["ROOM_LIMIT", "Room"]

#: The limit of members, in this process, up to which joins, leaves and new names are announced, and of names
#: that /who lists. The notices of a larger room would grow with the square of its members.
ROOM_LIMIT = 100

#: Messages of the broker's history that are read after an outage, for what members have missed, and for a
#: member of another process whose position is not among the messages that are kept here.
SEARCHED = 1000

#: Seconds in which that position must be found.
PLACE_TIMEOUT = 2.0

# Seconds between attempts to read the history.
_PAUSE = 0.05

# Attempts to read it after an outage, for which members are shown nothing: their connections may be lost once
# more before all is well.
_ATTEMPTS = 40

_GAP = "some lines may be missing here"


class _Reading(Enum):
    """Whether the broker's history was read: LOADING -> (MISSING -> RECOVERING ->)* READ."""

    LOADING = "it is read for the first time; members wait to come in"
    MISSING = "it can't be read, since others can't be reached: an outage"
    RECOVERING = "it is read after an outage; members are held until then"
    READ = "it was read"


class Room:
    """A room.

    name: its own. apart: whether others can't be reached.
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
        self.apart = apart
        self._backplane = backplane
        self._node = node
        self._numbers = numbers
        self._call_later = call_later
        self._on_slow = on_slow
        self._audience = Audience()
        self._history = History()
        self._outbox = Outbox()
        self._arriving: dict[Occupant, Callable[[], object]] = {}  # until the history is loaded
        self._reading = _Reading.LOADING
        self._attempts = 0  # to read the history, that are left
        self._retry: Handle | None = None
        # In an outage: the last message that each member was shown in another process, None for one that has
        # entered since; and the messages that came, and were shown, before the history could be read.
        self._last_shown: dict[Occupant, Position | None] = {}
        self._shown_meanwhile: set[Position] = set()
        self._subscription = backplane.subscribe(self.topic, self._on_message, self._on_gap)
        self._read()

    def __len__(self) -> int:
        return len(self._audience)

    def __iter__(self) -> Iterator[Occupant]:
        return iter(self._audience)

    def __contains__(self, member: Occupant) -> bool:
        return member in self._audience

    @property
    def loaded(self) -> bool:
        """Whether members may come in: the history was read, or can't be read for now."""
        return self._reading in (_Reading.READ, _Reading.MISSING)

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
        self._admit(member, None)

    def _admit(self, member: Occupant, position: Position | None, missed: Sequence[Message] = ()) -> None:
        self._audience.add(member, missed)
        if self._reading is _Reading.MISSING:
            self._last_shown[member] = position

    def remove(self, member: Occupant) -> bool:
        """Remove `member`; return whether it was here, and not just arriving."""
        self._arriving.pop(member, None)
        self._last_shown.pop(member, None)
        return self._audience.remove(member)

    def last_lines(self) -> list[Message]:
        """Return the last lines that were said."""
        return last_lines(self._history.recent)

    def notify(self, text: str) -> None:
        """Show a notice to all members here, and to those who are about to be."""
        self._audience.write(text)
        recovering = [member for member, _ in self._audience.held(Reason.READING)]
        for member in (*self._arriving, *recovering):
            member.write(member.client.encode(text))

    # Handing members over

    def position(self, member: Occupant) -> Position | None:
        """Return the topic's last message up to which `member` has seen all; None: none, or no process."""
        return self._last_shown.get(member, self._history.last) if self._node else None

    def unsent(self) -> list[tuple[str, bool]]:
        """Return the messages for the process that goes on with the members, and whether they were shown.

        They have not come back, and this process may end before it can send them. They are returned for the
        first member that is handed over only.
        """
        if not self._node or any(self._audience.held(Reason.FROZEN)):
            return []
        up = self._backplane.state is BackplaneState.UP
        return [] if up and not self._outbox.first_is_echoed() else self._outbox.export()

    def adopt(self, unsent: Sequence[tuple[str, bool]]) -> int:
        """Publish what the process before has not sent, as it is; return how many were accepted.

        Its members here were shown those which say so.
        """
        accepted = 0
        for text, shown in unsent:
            data = text.encode()
            message = Message.decode(data)
            if self._outbox.was_echoed(message) or not self._backplane.publish(self.topic, data):
                continue  # it came with another member, or is refused, which is logged
            accepted += 1
            sent = self._outbox.add(data, message)
            if shown:
                self._echo(sent)
        return accepted

    def freeze(self, member: Occupant) -> None:
        """Keep what `member` would be shown, if another process may show it the same."""
        if self._node and self._audience.is_live(member):
            self._audience.hold(member, Reason.FROZEN)

    def thaw(self, member: Occupant) -> None:
        """Show `member` what it has missed: it stays in this process."""
        hold = self._audience.hold_of(member, Reason.FROZEN)
        if hold is None:
            return
        if self._reading is _Reading.RECOVERING:
            hold.reason = Reason.READING
            return
        if hold.may_lack:
            member.write(member.client.encode(_GAP))
        self._audience.release(member)

    def go_on(self, member: Occupant, position: Position | None) -> None:
        """Show `member`, that was in another process, what comes after `position`."""
        if position is None or self._reading is _Reading.MISSING or not self._node:
            self._admit(member, position)
            return
        later = after(position, self._history.recent)
        if later is not None:
            self._admit(member, position, self._outbox.without_echoed(later))
            return
        self._audience.hold(member, Reason.BEHIND, position)  # which is to come, or longer ago
        self._backplane.read_last(self.topic, SEARCHED, partial(self._search, member))
        self._call_later(PLACE_TIMEOUT, self._stop_waiting, member)

    def _search(self, member: Occupant, history: list[bytes] | None) -> None:
        """Show `member` what the history has behind its position, if it has that."""
        hold = self._audience.hold_of(member, Reason.BEHIND)
        if hold is None or hold.position is None:
            return
        messages = decode_history(history)
        while messages and messages[-1].position != self._history.last:
            messages.pop()  # it is to come
        later = after(hold.position, messages)
        if later is not None:
            hold.missed = _joined(self._outbox.without_echoed(later), hold.missed)
            self._audience.release(member)

    def _stop_waiting(self, member: Occupant) -> None:
        """Show `member` what comes, if its position has not come."""
        if self._audience.hold_of(member, Reason.BEHIND) is not None:
            member.write(member.client.encode(_GAP))
            self._audience.release(member)

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
        sent = self._outbox.add(data, message, on_shown)
        if self.apart:
            self._echo(sent)
        return True

    def when_shown(self, callback: Callable[[], object]) -> None:
        """Call `callback` when all that was posted here has been shown."""
        self._outbox.when_shown(callback)

    def set_apart(self, apart: bool) -> None:
        """Show what is said at once, from now on, or when it comes back."""
        self.apart = apart
        if not apart:
            self._recover()
            return
        if self._retry is not None:
            self._retry.cancel()
            self._attempts = 0
            self._load(None)
        for sent in self._outbox.not_echoed():
            self._echo(sent)

    def _echo(self, sent: Sent) -> None:
        """Show a message before it comes back."""
        self._outbox.note_echo(sent)
        self._show(sent.message)
        sent.settle()

    def _on_message(self, topic: str, data: bytes) -> None:
        message = self._outbox.decode(data)
        self._recover()
        is_new = self._history.is_new(message)
        if is_new:
            self._show(message)
        if (self._outbox.take_back(message) or is_new) and message.kind in KINDS:
            self._history.last = message.position

    def _show(self, message: Message) -> None:
        self._history.add(message)
        if message.kind in KINDS and self._audience.show(message):  # else it is of a later version
            self._on_slow(message)

    def _on_gap(self, topic: str, missed: int | None) -> None:
        self._outbox.settle_all()
        if missed is None:
            self._audience.write(_GAP)
        else:
            lines = "1 line was" if missed == 1 else f"{missed} lines were"
            self._audience.write(f"{lines} lost here")

    # The broker's history

    def _read(self) -> None:
        self._retry = None
        first = self._reading is _Reading.LOADING
        self._backplane.read_last(self.topic, KEPT if first else SEARCHED, self._load)

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
        messages = decode_history(history)
        before, self._reading = self._reading, _Reading.MISSING if history is None else _Reading.READ
        if before is _Reading.RECOVERING:
            self._end_recovery(messages)
        self._history.prepend(messages)
        arriving, self._arriving = self._arriving, {}
        for callback in arriving.values():
            callback()

    def _recover(self) -> None:
        """Read the history if an outage was in the way; what comes meanwhile is shown after it."""
        if self._reading is _Reading.MISSING:
            self._reading, self._attempts = _Reading.RECOVERING, _ATTEMPTS
            for member in self._last_shown:
                if self._audience.is_live(member):  # not frozen
                    self._audience.hold(member, Reason.READING)
            self._read()

    def _end_recovery(self, messages: list[Message]) -> None:
        """Show members what they have missed, or what has come, if the history can't be read after all."""
        recovering = list(self._audience.held(Reason.READING))
        if self._reading is _Reading.MISSING:
            self._shown_meanwhile.update(message.position for message in self._audience.kept())
        else:
            for member, hold in recovering:
                self._recover_missed(member, hold, messages)
            for _, hold in self._audience.held(Reason.FROZEN):
                hold.may_lack = True  # it is handed over as it was before
            self._last_shown.clear()
            self._shown_meanwhile.clear()
        for member, _ in recovering:
            self._audience.release(member)

    def _recover_missed(self, member: Occupant, hold: Hold, messages: list[Message]) -> None:
        """Keep for `member` what the history has after its position.

        A member whose position is not there is shown the last lines of those before the first that is kept.
        """
        position = self._last_shown[member]
        later = None if position is None else after(position, messages)
        if later is None:
            come = {message.position for message in hold.missed}
            start = next((n for n, message in enumerate(messages) if message.position in come), len(messages))
            if position is not None:
                member.write(member.client.encode(_GAP))
            lines = last_lines(self._not_shown(messages[:start]))
            if lines:
                member.write(member.client.encode_past(lines))
            later = messages[start:]
        hold.missed = _joined(self._not_shown(later), hold.missed)

    def _not_shown(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages without those that members were shown in the outage."""
        return [
            each
            for each in self._outbox.without_echoed(messages)
            if each.position not in self._shown_meanwhile
        ]


def _joined(first: list[Message], second: list[Message]) -> list[Message]:
    """Return the messages of two lists, each once."""
    known = {message.position for message in first}
    return [*first, *(message for message in second if message.position not in known)]
