"""`Outbox`: the messages that a process has published to a room, and not received back yet. It does no I/O.

While the other processes can't be reached, a message is shown where it was said at once: that is a local
echo. When it does come back it is not shown again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

import attrs

from reactor.apps.chat_message import Message

__all__ = ["Outbox", "Sent"]


@attrs.define(eq=False)
class Sent:
    """A message that has not come back.

    data: as it was published. on_shown: called when it is shown, or when it is lost. echoed: it was shown
    already.
    """

    data: bytes
    message: Message
    on_shown: list[Callable[[], object]]
    echoed: bool = False

    def settle(self) -> None:
        """Call `on_shown`, once: the message has been shown, or is lost."""
        callbacks, self.on_shown = self.on_shown, []
        for callback in callbacks:
            callback()


@attrs.define(eq=False)
class Outbox:
    """The messages that have not come back, in the order in which they were published.

    Some may be of the process before, which had not sent them: they keep its name and numbers.
    """

    _sent: deque[Sent] = attrs.field(factory=deque, init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)  # of these, by their process
    _echoed: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)  # first and last, by process

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, data: bytes, message: Message, on_shown: Callable[[], object] | None = None) -> Sent:
        """Add a message that was published; on_shown: called when it has been shown, or is lost."""
        sent = Sent(data, message, [] if on_shown is None else [on_shown])
        self._sent.append(sent)
        self._counts[message.node] += 1
        return sent

    def decode(self, data: bytes) -> Message:
        """Return the message that was received as `data`; the next one that is due needs no decoding.

        Raises ValueError if it is none.
        """
        if self._sent and self._sent[0].data == data:
            return self._sent[0].message
        return Message.decode(data)

    def take_back(self, message: Message) -> bool:
        """Remove a message that has come back, and those before it, which are lost.

        Return whether any was here.
        """
        removed = False
        while self._counts[message.node]:
            first = self._sent[0].message
            if first.node == message.node and first.number > message.number:
                break
            removed = True
            self._counts[first.node] -= 1
            self._sent.popleft().settle()
        return removed

    def settle_all(self) -> None:
        """Wait for none of these any longer: each comes back, or is lost."""
        for sent in list(self._sent):
            sent.settle()

    def when_shown(self, callback: Callable[[], object]) -> None:
        """Call `callback` when all of these have been shown."""
        if self._sent and not self._sent[-1].echoed:
            self._sent[-1].on_shown.append(callback)
        else:
            callback()

    def export(self) -> list[tuple[str, bool]]:
        """Return these messages as text, and whether each was echoed."""
        return [(sent.data.decode(), sent.echoed) for sent in self._sent]

    # Local echo

    def first_is_echoed(self) -> bool:
        """Return whether the one that is due next was shown already."""
        return bool(self._sent) and self._sent[0].echoed

    def not_echoed(self) -> list[Sent]:
        """Return those that were not shown yet."""
        return [sent for sent in self._sent if not sent.echoed]

    def note_echo(self, sent: Sent) -> None:
        """Note that this message is shown now."""
        sent.echoed = True
        message = sent.message
        first, _ = self._echoed.get(message.node, (message.number, 0))
        self._echoed[message.node] = first, message.number

    def was_echoed(self, message: Message) -> bool:
        """Return whether a message was shown before it came back, whenever that was."""
        first, last = self._echoed.get(message.node, (1, 0))
        return first <= message.number <= last

    def without_echoed(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages without those that were shown before they came back."""
        return [message for message in messages if not self.was_echoed(message)]
