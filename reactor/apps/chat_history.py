"""`History`: the last messages of a room, as far as a process has received or read them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import attrs

from reactor.apps.chat_message import KINDS, SAID, Message, Position

__all__ = ["KEPT", "LAST", "History", "after", "decode_history", "last_lines"]

#: Messages of a room that are kept: for a member of another process that goes on here.
KEPT = 100

#: Lines that a new member is shown.
LAST = 10

# Processes whose last message is remembered.
_NODES = 1000


@attrs.define(eq=False)
class History:
    """The last messages of a room.

    recent: these, the oldest first. last: the position of the last one in the order of the topic, which an
    echo is not part of; None: there is none yet.
    """

    recent: deque[Message] = attrs.field(factory=lambda: deque(maxlen=KEPT), init=False)
    last: Position | None = attrs.field(default=None, init=False)
    _latest: dict[str, int] = attrs.field(factory=dict, init=False)  # the last number of each process

    def is_new(self, message: Message) -> bool:
        """Return whether this message, and so each later one of its process, is not known yet."""
        return message.number > self._latest.get(message.node, 0)

    def add(self, message: Message) -> None:
        """Add a message that is shown now."""
        self._note(message)
        if message.kind in KINDS:
            self.recent.append(message)

    def prepend(self, messages: Sequence[Message]) -> None:
        """Add those messages of the broker's history that are not known: they come before the others."""
        known = {message.position for message in self.recent}
        older = [message for message in messages if message.position not in known]
        self.recent = deque([*older, *self.recent], KEPT)
        for message in older:
            self._note(message)
        if messages and (self.last is None or any(message.position == self.last for message in messages)):
            self.last = messages[-1].position

    def _note(self, message: Message) -> None:
        """Note that all messages of that process up to this one are known."""
        latest = self._latest
        latest[message.node] = max(message.number, latest.get(message.node, 0))
        if len(latest) > _NODES:
            del latest[next(iter(latest))]


def after(position: Position, messages: Sequence[Message]) -> list[Message] | None:
    """Return the messages after that of a position; None: it is not among them."""
    later: list[Message] = []
    for message in reversed(messages):
        if message.position == position:
            return later[::-1]
        later.append(message)
    return None


def last_lines(messages: Iterable[Message]) -> list[Message]:
    """Return the last of the lines that were said."""
    return [message for message in messages if message.kind == SAID][-LAST:]


def decode_history(history: list[bytes] | None) -> list[Message]:
    """Return the messages of a broker's history, each once."""
    messages: dict[Position, Message] = {}
    for data in history or ():
        try:
            message = Message.decode(data)
        except ValueError:
            continue  # it was reported when it came
        if message.kind in KINDS:
            messages.setdefault(message.position, message)
    return list(messages.values())
