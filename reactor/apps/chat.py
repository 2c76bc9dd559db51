"""Chat: lines to everybody in the same room, with nicknames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import ClassVar

import attrs

from reactor.connection import Connection
from reactor.errors import SlowConsumer
from reactor.framed import FramedProtocol
from reactor.framing import Lines

__all__ = ["Hall", "Member"]

#: Bytes of a line, and characters of a nickname or a room's name.
LINE_MOST = 1024
NAME_MOST = 20

LOBBY = "lobby"
HELP = "/nick NAME, /join ROOM, /who, /quit; everything else is said to the room"


@attrs.define(eq=False)
class Hall:
    """All rooms of a server, and who is in them. Calling it makes a connection's protocol."""

    rooms: dict[str, list[Member]] = attrs.field(factory=dict)
    _numbers: count[int] = attrs.field(factory=lambda: count(1))

    def __call__(self) -> Member:
        """Return the protocol of a newcomer."""
        return Member(self, f"guest{next(self._numbers)}")

    def find(self, name: str) -> Member | None:
        """Return who is called `name`, whatever its case, or None."""
        wanted = name.casefold()
        everybody = (member for members in self.rooms.values() for member in members)
        return next((member for member in everybody if member.name.casefold() == wanted), None)

    def enter(self, member: Member, room: str) -> None:
        """Let `member` into `room`, and tell everybody there."""
        member.room = room
        self.rooms.setdefault(room, []).append(member)
        self.tell(room, f"* {member.name} has joined {room}")

    def leave(self, member: Member, why: str = "has left") -> None:
        """Take `member` out of its room, and tell those who stay."""
        members = self.rooms[member.room]
        members.remove(member)
        if not members:
            del self.rooms[member.room]
        self.tell(member.room, f"* {member.name} {why}")

    def tell(self, room: str, line: str) -> None:
        """Send `line` to everybody in `room`."""
        data = f"{line}\r\n".encode()
        for member in self.rooms.get(room, ()):
            member.connection.write(data)


class Member(FramedProtocol):
    """Who has connected. One that does not keep up with its room is cut off; the room goes on.

    hall: where it is. name: its nickname.
    """

    __slots__ = ("hall", "name", "room")

    def __init__(self, hall: Hall, name: str) -> None:
        super().__init__(Lines(LINE_MOST, ending=b"\r\n"))
        self.hall = hall
        self.name = name
        self.room = LOBBY

    def connection_made(self, connection: Connection) -> None:
        """Say who is who, and enter the lobby."""
        super().connection_made(connection)
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
            self.hall.tell(self.room, f"{self.name}: {text}")

    def pause_writing(self) -> None:
        """Cut off this member, which has not taken the last 64 KiB of what was said."""
        self.connection.abort(SlowConsumer(f"{self.name} does not keep up with {self.room}"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the room."""
        self.hall.leave(self, "has left" if exc is None else "was disconnected")

    def reply(self, text: str) -> None:
        """Send `text` to this member alone."""
        self.send(text.encode())

    def _nick(self, name: str) -> None:
        if not _is_name(name):
            self.reply(f"* a nickname has 1 to {NAME_MOST} letters, digits, - or _")
        elif self.hall.find(name) not in {None, self}:
            self.reply(f"* {name} is taken")
        else:
            self.hall.tell(self.room, f"* {self.name} is now {name}")
            self.name = name

    def _join(self, room: str) -> None:
        if not _is_name(room):
            self.reply(f"* a room's name has 1 to {NAME_MOST} letters, digits, - or _")
        elif room != self.room:
            self.hall.leave(self, f"went to {room}")
            self.hall.enter(self, room)

    def _who(self, _: str) -> None:
        names = ", ".join(member.name for member in self.hall.rooms[self.room])
        self.reply(f"* in {self.room}: {names}")

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
