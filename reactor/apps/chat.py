"""Chat: each line is sent to all members of a room, under nicknames."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import count, islice
from typing import ClassVar

import attrs

from reactor.connection.connection import Connection
from reactor.errors import HandedOver
from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Hall", "Member"]

#: The limits of a line in bytes, and of a nickname or a room's name in characters.
LINE_LIMIT = 1024
NAME_LIMIT = 20

#: The limit of members up to which joins and leaves are announced, and of names that /who lists. The notices
#: of a larger room would grow with the square of its members.
ROOM_LIMIT = 100

#: The write timeout: seconds in which a member must receive some of its queued lines, or be disconnected.
WRITE_TIMEOUT = 30.0

#: Seconds for which a sender is not read from after a line that put a member above its high-water mark. It
#: slows the sender down, so that members that read receive every line, and no member can stop a room.
SLOWDOWN = 0.1

LOBBY = "lobby"

# A name that was given, not chosen.
_GUEST = re.compile(r"guest\d+")

HELP = "/nick NAME, /join ROOM, /who, /quit; everything else is said to the room"


@attrs.define(eq=False)
class Hall:
    """The rooms and members of a server. It is the factory of the connections' protocols.

    rooms: the members of each, in the order in which they joined. names: the members by nickname, casefolded.
    """

    rooms: dict[str, dict[Member, None]] = attrs.field(factory=dict)
    names: dict[str, Member] = attrs.field(factory=dict)
    _numbers: count[int] = attrs.field(factory=lambda: count(1))

    def __call__(self) -> Member:
        """Return the protocol of a new connection."""
        member = Member(self)
        self._name_guest(member)
        return member

    def set_name(self, member: Member, name: str) -> bool:
        """Set the nickname of `member` if it is free, compared without case; return whether it was."""
        if self.names.setdefault(name.casefold(), member) is not member:
            return False
        if member.name.casefold() != name.casefold():
            self.names.pop(member.name.casefold(), None)
        member.name = name
        return True

    def take_over(self, connection: Connection, state: bytes) -> Member:
        """Go on with a member of another process, in its room and under its name.

        If somebody here has that name, the one who has not chosen it is given a new one, else the one who
        comes.
        """
        known = json.loads(state)
        member = Member(self)
        member.connection = connection
        member.room = known["room"]
        name = known["name"]
        holder = self.names.get(name.casefold())
        if holder is not None and _GUEST.fullmatch(name):
            self._rename(holder, name)
        if not self.set_name(member, name):
            self._rename(member, name)
        self.rooms.setdefault(member.room, {})[member] = None
        return member

    def _rename(self, member: Member, taken: str) -> None:
        self._name_guest(member)
        member.reply(f"* {taken} is taken: you are {member.name}")

    def _name_guest(self, member: Member) -> None:
        while not self.set_name(member, f"guest{next(self._numbers)}"):
            pass  # a member has chosen this name

    def enter(self, member: Member, room: str) -> None:
        """Add `member` to `room`, and announce it there."""
        member.room = room
        members = self.rooms.setdefault(room, {})
        members[member] = None
        notice = f"* {member.name} has joined {room}"
        if len(members) <= ROOM_LIMIT:
            self.broadcast(room, notice, member)
        else:
            member.reply(notice)

    def leave(self, member: Member, why: str | None = "has left") -> None:
        """Remove `member` from its room, and announce it there; None for `why`: in silence."""
        members = self.rooms[member.room]
        del members[member]
        if not members:
            del self.rooms[member.room]
        elif why is not None and len(members) < ROOM_LIMIT:
            self.broadcast(member.room, f"* {member.name} {why}", member)

    def remove(self, member: Member, why: str | None) -> None:
        """Remove a member whose connection has ended; `why`: as `leave` takes it."""
        self.leave(member, why)
        del self.names[member.name.casefold()]

    def broadcast(self, room: str, line: str, speaker: Member) -> None:
        """Send `line` to all members of `room`; slow `speaker` down if one of them does not keep up."""
        data = f"{line}\r\n".encode()
        slow = False
        for member in self.rooms.get(room, ()):
            if not member.connection.write(data) and not member.connection.is_closing():
                slow = True
        if slow:
            speaker.slow_down()


class Member(FramedProtocol):
    """The protocol of a client, which is disconnected when it receives nothing for `WRITE_TIMEOUT` seconds.

    hall: its server's. name: its nickname, set by the hall. room: the name of its room.
    """

    __slots__ = ("hall", "name", "room")

    frames_per_tick = 10  # each is written to the whole room

    def __init__(self, hall: Hall) -> None:
        super().__init__(Lines(LINE_LIMIT, ending=b"\r\n"))
        self.hall = hall
        self.name = ""
        self.room = LOBBY

    def connection_made(self, connection: Connection) -> None:
        """Greet the member, and enter the lobby."""
        super().connection_made(connection)
        connection.set_timeouts(write=WRITE_TIMEOUT)
        self.reply(f"* you are {self.name}; {HELP}")
        self.hall.enter(self, LOBBY)

    def frame_received(self, frame: bytes) -> None:
        """Run a command, or send the line to the room."""
        text = "".join(filter(str.isprintable, frame.decode("utf-8", "replace"))).strip()
        word, _, rest = text.partition(" ")
        command = self.COMMANDS.get(word)
        if command is not None:
            command(self, rest.strip())
        elif text.startswith("/"):
            self.reply(f"* there is no {word}: {HELP}")
        elif text:
            self.hall.broadcast(self.room, f"{self.name}: {text}", self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the member, and announce it, unless another process goes on with it."""
        if isinstance(exc, HandedOver):
            self.hall.remove(self, None)
        else:
            self.hall.remove(self, "has left" if exc is None else "was disconnected")

    def hand_over(self) -> bytes:
        """Return its name and room."""
        return json.dumps({"name": self.name, "room": self.room}).encode()

    def slow_down(self) -> None:
        """Read nothing from this member for `SLOWDOWN` seconds."""
        connection = self.connection
        if not connection.is_closing():
            connection.pause_reading()
            connection.reactor.call_later(SLOWDOWN, connection.resume_reading)

    def reply(self, text: str) -> None:
        """Send `text` to this member alone."""
        self.send(text.encode())

    def _nick(self, name: str) -> None:
        before = self.name
        if not _is_name(name):
            self.reply(f"* a nickname has 1 to {NAME_LIMIT} letters, digits, - or _")
        elif not self.hall.set_name(self, name):
            self.reply(f"* {name} is taken")
        else:
            self.hall.broadcast(self.room, f"* {before} is now {name}", self)

    def _join(self, room: str) -> None:
        if not _is_name(room):
            self.reply(f"* a room's name has 1 to {NAME_LIMIT} letters, digits, - or _")
        elif room != self.room:
            self.hall.leave(self, f"went to {room}")
            self.hall.enter(self, room)

    def _who(self, _: str) -> None:
        members = self.hall.rooms[self.room]
        names = ", ".join(member.name for member in islice(members, ROOM_LIMIT))
        more = f" and {len(members) - ROOM_LIMIT} more" if len(members) > ROOM_LIMIT else ""
        self.reply(f"* in {self.room}: {names}{more}")

    def _quit(self, _: str) -> None:
        self.reply("* bye")
        self.connection.close()

    COMMANDS: ClassVar[dict[str, Callable[[Member, str], None]]] = {
        "/nick": _nick,
        "/join": _join,
        "/who": _who,
        "/quit": _quit,
    }


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_LIMIT and text.replace("-", "").replace("_", "").isalnum()
