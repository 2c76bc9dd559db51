"""Chat: each line is sent to all members of a room, under nicknames, in one process or in many.

What joins the processes is a backplane: a room is a topic of it, and a nickname is a name that is taken
there. `chat_room` has the rooms, and `chat_audience`, `chat_history` and `chat_outbox` their parts;
`chat_message` has what is published, `chat_member` the members with their commands, `chat_web` the page for
browsers. Here are the hall that has them all, and the clients that speak lines, as telnet does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from secrets import choice
from typing import Any

import attrs

from reactor.apps.chat_audience import Client
from reactor.apps.chat_history import KEPT
from reactor.apps.chat_member import HELP, LOBBY, SLOWDOWN, Member
from reactor.apps.chat_message import JOINED, LEFT, Message, Position
from reactor.apps.chat_room import Room
from reactor.backplane import Backplane, BackplaneState, LocalBackplane
from reactor.connection.connection import Connection
from reactor.errors import HandedOver
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.loop.timers import Handle
from reactor.reactor import Reactor

__all__ = ["HISTORY_AGE", "Hall", "LineProtocol"]

log = logging.getLogger("reactor")

#: The limit of a line in bytes.
LINE_LIMIT = 1024

#: The write timeout: seconds in which a member must receive some of its queued lines, or be disconnected.
WRITE_TIMEOUT = 30.0

#: Lines of a member that are handled in one tick: each is written to the whole room.
LINES_PER_TICK = 10

#: Seconds for which the last lines of a room are kept.
HISTORY_AGE = 24 * 3600.0

# Seconds between looks at the backplane's state; twice not up is what members are informed of.
_LOOK = 0.5

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"

_APART = "the others can't be reached: what you say is shown here, and to them when they can be again"
_JOINED_AGAIN = "the others can be reached again"


@attrs.define(eq=False, repr=False)
class Hall:
    """The rooms and members of a server. It is the factory of the protocols of connections that speak lines.

    backplane: joins the halls of several processes; None: this one has its rooms to itself.

    rooms: those with members here. names: the members here by nickname, casefolded. node: the name of this
    hall among others, "" without them. apart: whether the others can't be reached.
    """

    _backplane: Backplane | None = None
    rooms: dict[str, Room] = attrs.field(factory=dict, init=False)
    names: dict[str, Member] = attrs.field(factory=dict, init=False)
    node: str = attrs.field(init=False)
    apart: bool = attrs.field(default=False, init=False)
    _guests: Iterator[int] = attrs.field(factory=lambda: count(1), init=False)
    _numbers: Iterator[int] = attrs.field(factory=lambda: count(1), init=False)
    _posts: Iterator[int] = attrs.field(factory=lambda: count(1), init=False)
    _members: dict[int, Member] = attrs.field(factory=dict, init=False)
    _slowed: set[tuple[str, int]] = attrs.field(factory=set, init=False)
    _unheard: int = attrs.field(default=0, init=False)  # looks in a row that found the backplane not up
    _adopted: int = attrs.field(default=0, init=False)  # messages of the process before, since the last look
    _watch: Handle | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.node = "" if self._backplane is None else "".join(choice(_LETTERS) for _ in range(16))

    def __repr__(self) -> str:
        return f"<Hall of {len(self._members)} members>"

    def __call__(self) -> LineProtocol:
        """Return the protocol of a new connection."""
        return LineProtocol(self)

    @property
    def backplane(self) -> Backplane:
        """The backplane that joins the processes, or one in memory for this process alone."""
        assert self._backplane is not None, "no member has come yet"
        return self._backplane

    # Members

    def admit(self, connection: Connection, write: Callable[[bytes], bool], client: Client) -> Member:
        """Return a new member, without a name and in no room yet."""
        if self._backplane is None:
            self._backplane = LocalBackplane(connection.reactor, history=KEPT, history_age=HISTORY_AGE)
        elif self.node and self._watch is None:
            self._begin(self._backplane, connection.reactor)
        member = Member(self, connection, write, client, next(self._numbers))
        self._members[member.number] = member
        return member

    def greet(self, member: Member, room: str = LOBBY) -> None:
        """Give a new member a name, and take it to a room."""
        member.connection.set_timeouts(write=WRITE_TIMEOUT)
        self.name_guest(member)
        member.reply(f"you are {member.name}; {HELP}")
        if self.apart:
            member.reply(_APART)
        self.enter(member, room)

    def remove(self, member: Member, why: str | None) -> None:
        """Remove a member whose connection has ended; `why`: as `leave` takes it."""
        del self._members[member.number]
        member.give_names_back(hand_over=why is None)
        self.leave(member, why)

    def take_over(self, connection: Connection, state: bytes) -> LineProtocol:
        """Go on with a member of another process whose client speaks lines."""
        protocol = LineProtocol(self)
        self.go_on(protocol.begin(connection), state)
        return protocol

    def go_on(self, member: Member, state: bytes) -> None:
        """Go on with a member of another process, in its room and under its name. state: of `Member.freeze`.

        If somebody here has that name, the one who has not chosen it is given a new one, else the one who
        comes.
        """
        known = json.loads(state)
        name, room, chosen = known["name"], known["room"], known.get("chosen", False)
        member.token, member.room = known.get("token", member.token), room
        holder = self.names.get(name.casefold())
        if holder is not None and not chosen:
            self.replace_name(holder, name)
        if self.names.setdefault(name.casefold(), member) is member:
            member.name = name
            if chosen:
                member.keep_name()
        else:
            self.replace_name(member, name)
        again = known.get("again", "")
        self._tell(member, apart=known.get("apart", False))
        unsent = known.get("unsent")
        if unsent:
            self._adopted += self._room(room, member.connection.reactor).adopt(unsent)
        if known.get("arriving"):
            self.enter(member, room, again)
        else:
            self._go_on(member, room, known.get("position"), again)

    def replace_name(self, member: Member, taken: str) -> None:
        """Give `member` another name: somebody else has this one."""
        self.name_guest(member)
        member.reply(f"{taken} is taken: you are {member.name}")
        member.inform()

    def name_guest(self, member: Member) -> None:
        """Give `member` a name that nobody has, here or elsewhere."""
        suffix = f"-{self.node[:4]}" if self.node else ""
        while True:
            name = f"guest{next(self._guests)}{suffix}"
            if name not in self.names:
                break
        if self.names.get(member.name.casefold()) is member:
            del self.names[member.name.casefold()]
        self.names[name] = member
        member.name = name

    # Rooms

    def enter(self, member: Member, room: str, again: str = "") -> None:
        """Take `member` to `room`, show it the last lines, and announce it; then run the command `again`."""
        member.room = room
        member.hold()
        member.inform()
        made = self._room(room, member.connection.reactor)
        made.when_loaded(member, partial(self._entered, member, made, again))

    def _entered(self, member: Member, room: Room, again: str) -> None:
        lines = room.last_lines()
        if lines:
            member.write(member.client.encode_past(lines))
        room.add(member)
        member.take_place()
        if room.is_large():
            member.reply(f"{member.name} has joined {room.name}")
        else:
            member.post(JOINED)
        member.go_on(again)

    def _go_on(self, member: Member, name: str, position: list[Any] | None, again: str) -> None:
        """Go on in a room with a member of another process, behind the last message that it was shown."""
        member.room = name
        room = self._room(name, member.connection.reactor)
        place = None if position is None else (position[0], position[1])
        member.hold()
        room.when_loaded(member, partial(self._gone_on, member, room, place, again))

    def _gone_on(self, member: Member, room: Room, place: Position | None, again: str) -> None:
        room.go_on(member, place)
        member.take_place()
        member.go_on(again)

    def leave(self, member: Member, why: str | None = "has left") -> None:
        """Remove `member` from its room, and announce it there; None for `why`: in silence."""
        room = self.rooms[member.room]
        large, here = room.is_large(), room.remove(member)
        member.give_place_back(hand_over=why is None)
        if here and why is not None and not large:
            room.post(LEFT, member.name, why, member.number)
        if room.is_empty():
            room.close()
            del self.rooms[room.name]

    def _room(self, name: str, reactor: Reactor) -> Room:
        room = self.rooms.get(name)
        if room is None:
            room = Room(
                name, self.backplane, self.node, self._posts, reactor.call_later, self._slow,
                apart=self.apart,
            )  # fmt: skip
            self.rooms[name] = room
        return room

    # Other processes

    def _begin(self, backplane: Backplane, reactor: Reactor) -> None:
        """Listen to the other processes, and look after the backplane's state."""
        self.apart = backplane.state is BackplaneState.DEAF
        backplane.subscribe(_node_topic(self.node), self._on_slow)
        self._watch = reactor.call_later(_LOOK, self._look, backplane, reactor)

    def _tell(self, member: Member, *, apart: bool) -> None:
        """Tell `member`, which has come from another process, if the other processes can be reached or not.

        apart: what it was told last, there: that they can't be reached. It is told what has changed. If they
        can't be reached from here either, this process is apart at once, and nobody is told it twice.
        """
        if apart and not self.apart and self._is_away():
            self._set_apart(True)
        elif apart is not self.apart:
            member.reply(_APART if self.apart else _JOINED_AGAIN)

    def _is_away(self) -> bool:
        return self._backplane is not None and self._backplane.state is not BackplaneState.UP

    def _look(self, backplane: Backplane, reactor: Reactor) -> None:
        if backplane.state is BackplaneState.CLOSED:
            return
        self._watch = reactor.call_later(_LOOK, self._look, backplane, reactor)
        if self._adopted:
            count, self._adopted = self._adopted, 0
            log.info("chat: %d messages that the process before had not sent are queued here", count)
        up = backplane.state is BackplaneState.UP
        self._unheard = 0 if up else self._unheard + 1
        if self.apart is not (apart := self._unheard >= 2 or (self.apart and not up)):
            self._set_apart(apart)

    def _set_apart(self, apart: bool) -> None:
        """Tell the members here, and show what they say at once from now on, or when it comes back."""
        self.apart = apart
        if apart:
            log.warning("chat: other processes can't be reached, members here are a chat of their own")
        else:
            log.info("chat: other processes can be reached again")
        for room in list(self.rooms.values()):  # members whose commands go on leave rooms, and enter others
            room.notify(_APART if apart else _JOINED_AGAIN)
            room.set_apart(apart)

    def _slow(self, message: Message) -> None:
        """Slow down the speaker of `message`, here or in another process."""
        if message.node == self.node:
            self._slow_down(message.speaker)
        elif (message.node, message.speaker) not in self._slowed:
            if not self._slowed:
                reactor = next(iter(self._members.values())).connection.reactor
                reactor.call_later(SLOWDOWN / 2, self._slowed.clear)
            self._slowed.add((message.node, message.speaker))
            self.backplane.publish(_node_topic(message.node), b"%d" % message.speaker)

    def _on_slow(self, topic: str, data: bytes) -> None:
        self._slow_down(int(data))

    def _slow_down(self, number: int) -> None:
        member = self._members.get(number)
        if member is not None:
            member.slow_down()


def _node_topic(node: str) -> str:
    return f"chat:node:{node}"


def _encode_line(what: Message | str) -> bytes:
    line = f"* {what}" if isinstance(what, str) else what.line
    return f"{line}\r\n".encode()


def _encode_past(messages: list[Message]) -> bytes:
    header = f"the last {len(messages)} lines:" if len(messages) > 1 else "the last line:"
    return _encode_line(header) + b"".join(map(_encode_line, messages))


_LINES = Client(_encode_line, _encode_past)


class LineProtocol(FramedProtocol):
    """The protocol of a client that speaks lines, as telnet and nc do.

    It is disconnected when it receives nothing for `WRITE_TIMEOUT` seconds. hall: its server's. member: what
    it is in it; None before it is connected.
    """

    __slots__ = ("hall", "member")

    frames_per_tick = LINES_PER_TICK

    def __init__(self, hall: Hall) -> None:
        super().__init__(Lines(LINE_LIMIT, ending=b"\r\n"))
        self.hall = hall
        self.member: Member | None = None

    def begin(self, connection: Connection) -> Member:
        """Make a member of the connection."""
        super().connection_made(connection)
        self.member = self.hall.admit(connection, connection.write, _LINES)
        return self.member

    def connection_made(self, connection: Connection) -> None:
        """Greet the member, and enter the lobby."""
        self.hall.greet(self.begin(connection))

    def frame_received(self, frame: bytes) -> None:
        """Handle a line."""
        assert self.member is not None
        self.member.handle(frame.decode("utf-8", "replace"))

    def reading_resumed(self) -> None:
        """Go on after a transfer that has failed, and with the lines that wait."""
        if self.member is not None:
            self.member.thaw()
        super().reading_resumed()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the member, and announce it, unless another process goes on with it."""
        if self.member is not None:
            self.hall.remove(self.member, reason_of(exc))

    def hand_over(self) -> bytes:
        """Return the member's state."""
        assert self.member is not None
        return self.member.freeze()


def reason_of(exc: BaseException | None) -> str | None:
    """Return what is announced of a connection that has ended; None: it goes on in another process."""
    if isinstance(exc, HandedOver):
        return None
    return "has left" if exc is None else "was disconnected"
