"""`Audience`: the members of a room that are in this process, and what is kept for those who are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any
from typing import Protocol as Interface

import attrs

from reactor.apps.chat_message import Message, Position

__all__ = ["Audience", "Client", "Hold", "Occupant", "Reason"]


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


class Reason(Enum):
    """Why messages are kept for a member, and not shown now."""

    BEHIND = "the last message that it was shown, in another process, has not come here"
    READING = "what it has missed in an outage is being read from the history"
    FROZEN = "it is being handed over to another process"


@attrs.define(eq=False)
class Hold:
    """The messages that are kept for a member that is held, and the reason.

    missed: messages that it is shown when it is released. position: of the message that a member which is
    BEHIND waits for. may_lack: whether messages of an outage, which were not read for a FROZEN member, may be
    missing from `missed`; it is told so when it is released.
    """

    reason: Reason
    missed: list[Message] = attrs.field(factory=list)
    position: Position | None = None
    may_lack: bool = False


@attrs.define(eq=False)
class Audience:
    """The members of a room that are in this process: each is either live, or held.

    Live members are shown each message at once; for those who are held it is kept until they are released.
    """

    _live: dict[Client, dict[Occupant, None]] = attrs.field(factory=dict, init=False)  # as they have joined
    _held: dict[Occupant, Hold] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return sum(map(len, self._live.values())) + len(self._held)

    def __iter__(self) -> Iterator[Occupant]:
        for members in self._live.values():
            yield from members
        yield from self._held

    def __contains__(self, member: Occupant) -> bool:
        return self.is_live(member) or member in self._held

    def is_live(self, member: Occupant) -> bool:
        """Return whether `member` is shown each message at once."""
        return member in self._live.get(member.client, ())

    def hold_of(self, member: Occupant, reason: Reason) -> Hold | None:
        """Return what is kept for `member`; None: it is not held for this reason."""
        hold = self._held.get(member)
        return hold if hold is not None and hold.reason is reason else None

    def held(self, reason: Reason) -> Iterator[tuple[Occupant, Hold]]:
        """Iterate over the members that are held for a reason, and what is kept for each."""
        return ((member, hold) for member, hold in self._held.items() if hold.reason is reason)

    def kept(self) -> Iterator[Message]:
        """Iterate over all messages that are kept, those of each member that is held."""
        return (message for hold in self._held.values() for message in hold.missed)

    # Coming, being held, and going

    def add(self, member: Occupant, missed: Sequence[Message] = ()) -> None:
        """Show `member` the messages that it has missed, and each one from now on."""
        for message in missed:
            member.write(member.client.encode(message))
        self._live.setdefault(member.client, {})[member] = None

    def hold(self, member: Occupant, reason: Reason, position: Position | None = None) -> None:
        """Keep the messages for `member` from now on."""
        self.remove(member)
        self._held[member] = Hold(reason, position=position)

    def release(self, member: Occupant) -> None:
        """Show `member`, which is held, what was kept for it, and each message from now on."""
        self.add(member, self._held.pop(member).missed)

    def remove(self, member: Occupant) -> bool:
        """Remove `member`; return whether it was here."""
        if self._held.pop(member, None) is not None:
            return True
        members = self._live.get(member.client, {})
        if member not in members:
            return False
        del members[member]
        if not members:
            del self._live[member.client]
        return True

    # Messages

    def show(self, message: Message) -> bool:
        """Show a message to live members, and keep it for the others; return as `write` does."""
        slow = self.write(message)
        if self._held:
            self._keep(message)
        return slow

    def write(self, what: Message | str) -> bool:
        """Write it to live members, encoded once; return whether one of them does not keep up."""
        slow = False
        for client, members in self._live.items():
            data = client.encode(what)
            for member in members:
                if not member.write(data) and member.is_slow():
                    slow = True
        return slow

    def _keep(self, message: Message) -> None:
        """Keep a message for those who are held; who waits for this one has seen all up to it."""
        for hold in self._held.values():
            hold.missed.append(message)
        position = message.position
        for member in [each for each, hold in self.held(Reason.BEHIND) if hold.position == position]:
            self.remove(member)
            self.add(member)
