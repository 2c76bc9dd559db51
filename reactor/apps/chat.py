"""Chat: lines to everybody in the same room, with nicknames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import ClassVar

import attrs

from reactor.connection.connection import Connection
from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Hall", "Member"]

#: Bytes of a line, and characters of a nickname or a room's name.
LINE_MOST = 1024
NAME_MOST = 20

#: Members of a room that are told who comes and goes, and listed by /who. In a larger room nobody is told:
#: the notices of so many grow with the square of their number.
CROWD = 100

#: Seconds in which a member must take something of what is queued for it, or be cut off.
PATIENCE = 30.0

#: Seconds that a speaker waits after a line that somebody in the room has no room for: it slows down what is
#: said, so that whoever reads gets it all, and does not stop it, so that nobody can hold up a room.
SLOWED = 0.1

LOBBY = "lobby"
HELP = "/nick NAME, /join ROOM, /who, /quit; everything else is said to the room"


@attrs.define(eq=False)
class Hall:
    """All rooms of a server, and who is in them. Calling it makes a connection's protocol.

    rooms: the members of each, in the order in which they came. names: who is called what, in lower case.
    """

    rooms: dict[str, dict[Member, None]] = attrs.field(factory=dict)
    names: dict[str, Member] = attrs.field(factory=dict)
    _numbers: count[int] = attrs.field(factory=lambda: count(1))

    def __call__(self) -> Member:
        """Return the protocol of a newcomer."""
        member = Member(self)
        while not self.give_name(member, f"guest{next(self._numbers)}"):
            pass  # somebody has taken a name that looks like one of these
        return member

    def give_name(self, member: Member, name: str) -> bool:
        """Call `member` so; return whether the name, whatever its case, was free."""
        if self.names.setdefault(name.casefold(), member) is not member:
            return False
        if member.name.casefold() != name.casefold():
            self.names.pop(member.name.casefold(), None)
        member.name = name
        return True

    def enter(self, member: Member, room: str) -> None:
        """Let `member` into `room`, and tell everybody there."""
        member.room = room
        members = self.rooms.setdefault(room, {})
        members[member] = None
        notice = f"* {member.name} has joined {room}"
        if len(members) <= CROWD:
            self.tell(room, notice, member)
        else:
            member.reply(notice)

    def leave(self, member: Member, why: str = "has left") -> None:
        """Take `member` out of its room, and tell those who stay."""
        members = self.rooms[member.room]
        del members[member]
        if not members:
            del self.rooms[member.room]
        elif len(members) < CROWD:
            self.tell(member.room, f"* {member.name} {why}", member)

    def go(self, member: Member, why: str) -> None:
        """Take `member` out of the hall."""
        self.leave(member, why)
        del self.names[member.name.casefold()]

    def tell(self, room: str, line: str, speaker: Member) -> None:
        """Send `line` to everybody in `room`; slow `speaker` down if somebody there does not keep up."""
        data = f"{line}\r\n".encode()
        behind = False
        for member in self.rooms.get(room, ()):
            if not member.connection.write(data) and not member.connection.is_closing():
                behind = True
        if behind:
            speaker.slow_down()


class Member(FramedProtocol):
    """The protocol of a client. One that takes nothing for `PATIENCE` seconds is cut off; the room goes on.

    hall: where it is. name: its nickname, of the hall's giving. room: the one it is in.
    """

    __slots__ = ("hall", "name", "room")

    frames_per_tick = 10  # each is written to the whole room

    def __init__(self, hall: Hall) -> None:
        super().__init__(Lines(LINE_MOST, ending=b"\r\n"))
        self.hall = hall
        self.name = ""
        self.room = LOBBY

    def connection_made(self, connection: Connection) -> None:
        """Say who is who, and enter the lobby."""
        super().connection_made(connection)
        connection.set_timeouts(write=PATIENCE)
        self.reply(f"* you are {self.name}; {HELP}")
        self.hall.enter(self, LOBBY)

    def frame_received(self, frame: bytes) -> None:
        """Do what the line asks for, or say it to the room."""
        text = "".join(filter(str.isprintable, frame.decode("utf-8", "replace"))).strip()
        word, _, rest = text.partition(" ")
        command = self.COMMANDS.get(word)
        if command is not None:
            command(self, rest.strip())
        elif text.startswith("/"):
            self.reply(f"* there is no {word}: {HELP}")
        elif text:
            self.hall.tell(self.room, f"{self.name}: {text}", self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the room."""
        self.hall.go(self, "has left" if exc is None else "was disconnected")

    def slow_down(self) -> None:
        """Take nothing more of what this member says for `SLOWED` seconds."""
        connection = self.connection
        if not connection.is_closing():
            connection.pause_reading()
            connection.get_extra_info("reactor").call_later(SLOWED, connection.resume_reading)

    def reply(self, text: str) -> None:
        """Send `text` to this member alone."""
        self.send(text.encode())

    def _nick(self, name: str) -> None:
        before = self.name
        if not _is_name(name):
            self.reply(f"* a nickname has 1 to {NAME_MOST} letters, digits, - or _")
        elif not self.hall.give_name(self, name):
            self.reply(f"* {name} is taken")
        else:
            self.hall.tell(self.room, f"* {before} is now {name}", self)

    def _join(self, room: str) -> None:
        if not _is_name(room):
            self.reply(f"* a room's name has 1 to {NAME_MOST} letters, digits, - or _")
        elif room != self.room:
            self.hall.leave(self, f"went to {room}")
            self.hall.enter(self, room)

    def _who(self, _: str) -> None:
        members = self.hall.rooms[self.room]
        names = ", ".join(member.name for member in islice(members, CROWD))
        more = f" and {len(members) - CROWD} more" if len(members) > CROWD else ""
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
    return 0 < len(text) <= NAME_MOST and text.replace("-", "").replace("_", "").isalnum()
