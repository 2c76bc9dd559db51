"""`Member`: a member of a chat, whatever its client is: its commands, its name, and how fast it may speak."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from math import ceil
from secrets import token_hex
from typing import ClassVar
from typing import Protocol as Interface

import attrs

from reactor.apps.chat_audience import Client
from reactor.apps.chat_message import RENAMED, SAID
from reactor.apps.chat_room import ROOM_LIMIT, Room
from reactor.backplane import Backplane, Membership
from reactor.connection.connection import Connection
from reactor.loop.timers import Handle

__all__ = ["HELP", "LOBBY", "SLOWDOWN", "Host", "Member", "is_name"]

#: The limit of a nickname or a room's name, in characters.
NAME_LIMIT = 20

#: Seconds for which a sender is not read from after a line that put a member above its high-water mark. It
#: slows the sender down, so that members that read receive every line, and no member can stop a room.
SLOWDOWN = 0.1

#: Seconds after that in which each line of the sender waits until the one before is shown.
CARE = 1.0

#: Rooms that a member can go to within so many seconds: a broker keeps what each was sent for a day.
MOVES = 10
MOVES_WITHIN = 60.0

#: Seconds that a member's further lines wait for a nickname to be taken.
ANSWER_TIMEOUT = 5.0

LOBBY = "lobby"
_NAMES = "chat:names"

# A name that was given, in a hall that shares its rooms: nobody can choose one of this form.
_GIVEN = re.compile(r"guest\d+-[a-z0-9]{4}")

HELP = "/nick NAME, /join ROOM, /who, /quit; everything else is said to the room"

_UNSENT = "not sent: too much waits for the others, who can't be reached"


class Host(Interface):
    """Interface of a hall, as its members use it.

    rooms: those with members here. names: the members here by nickname, casefolded. node: the name of this
    hall among others, "" without them. apart: whether the others can't be reached.
    """

    rooms: dict[str, Room]
    names: dict[str, Member]
    node: str
    apart: bool

    @property
    def backplane(self) -> Backplane:
        """The backplane that joins the processes, or one in memory for this process alone."""

    def enter(self, member: Member, room: str, again: str = "") -> None:
        """Take `member` to `room`, show it the last lines, and announce it; then run the command `again`."""

    def leave(self, member: Member, why: str | None = "has left") -> None:
        """Remove `member` from its room, and announce it there; None for `why`: in silence."""

    def replace_name(self, member: Member, taken: str) -> None:
        """Give `member` another name: somebody else has this one."""


@attrs.define(eq=False, repr=False)
class Member:
    """A member, whatever its client is.

    hall: its server's. connection: of its client. write: sends what `client.encode` has returned. number: its
    own in this process. name: its nickname. room: the name of its room. token: with which another process may
    take its names.
    """

    hall: Host
    connection: Connection
    write: Callable[[bytes], bool]
    client: Client
    number: int
    name: str = ""
    room: str = LOBBY
    token: str = attrs.field(factory=partial(token_hex, 8))
    _nick: Membership | None = None  # of a name that was chosen
    _claim: Membership | None = None  # of the name that it is about to get
    _place: Membership | None = None  # in its room
    _asked: str = ""  # the command whose answer is awaited
    _timer: Handle | None = None
    _holds: int = 0  # reasons not to read from it
    _slowed: bool = False
    _careful_until: float = 0.0  # until then it says one line at a time
    _awaits: Handle | None = None  # the deadline of a line that is to be shown first
    _frozen: bool = False  # it is being handed over
    _moves: tuple[float, ...] = ()  # when it went to its last rooms

    def __repr__(self) -> str:
        return f"<Member {self.name!r} in {self.room!r}, {self.connection}>"

    @property
    def has_chosen(self) -> bool:
        """Whether it has chosen its name, which was given to it otherwise."""
        return self._nick is not None

    # What it says

    def handle(self, text: str) -> None:
        """Run a command, or send the line to the room."""
        text = "".join(filter(str.isprintable, text)).strip()
        word, _, rest = text.partition(" ")
        command = self.COMMANDS.get(word)
        if command is not None:
            command(self, rest.strip())
        elif text.startswith("/"):
            self.reply(f"there is no {word}: {HELP}")
        elif text:
            self._say(text)

    def _say(self, text: str) -> None:
        """Say it to the room; wait until it is shown if others could not keep up a moment ago."""
        reactor = self.connection.reactor
        if reactor.time() < self._careful_until and not self._awaits:
            self._awaits = reactor.call_later(ANSWER_TIMEOUT, self._stop_awaiting)
            self.hold()
        self.post(SAID, text, self._stop_awaiting if self._awaits else None)

    def _stop_awaiting(self) -> None:
        if self._awaits is not None:
            self._awaits.cancel()
            self._awaits = None
            self.release()

    def post(self, kind: str, text: str = "", on_shown: Callable[[], object] | None = None) -> None:
        """Publish a message to its room."""
        if not self.hall.rooms[self.room].post(kind, self.name, text, self.number, on_shown):
            self.reply(_UNSENT)
            self.slow_down()
            self._stop_awaiting()

    def reply(self, text: str) -> None:
        """Send a notice to this member alone."""
        self.write(self.client.encode(text))

    def _join(self, room: str) -> None:
        if not is_name(room):
            self.reply(f"a room's name has 1 to {NAME_LIMIT} letters, digits, - or _")
        elif room != self.room and self._may_move():
            self._ask(f"/join {room}")
            self.hall.rooms[self.room].when_shown(partial(self._go_to, room))

    def _may_move(self) -> bool:
        """Return whether it has not been to too many rooms; if it may move, that counts as one."""
        now = self.connection.reactor.time()
        moves = [when for when in self._moves if when > now - MOVES_WITHIN]
        if len(moves) >= MOVES:
            wait = ceil(moves[0] + MOVES_WITHIN - now)
            self.reply(f"you went to {MOVES} rooms within {MOVES_WITHIN:.0f} s: wait {wait} s")
            return False
        self._moves = (*moves, now)
        return True

    def _go_to(self, room: str) -> None:
        if self._is_asking():
            self.hall.leave(self, f"went to {room}")
            self.hall.enter(self, room)
            self.go_on()

    def _who(self, _: str) -> None:
        self._ask("/who")
        self.hall.rooms[self.room].when_shown(self._look_up_members)

    def _look_up_members(self) -> None:
        if not self._is_asking():
            return
        if self.hall.node:
            self.hall.backplane.members(_place(self.room), self._on_members)
        else:
            self._on_members(None)

    def _on_members(self, found: list[str] | None) -> None:
        if not self._is_asking():
            return
        names = sorted(member.name for member in self.hall.rooms[self.room]) if found is None else found
        listed = ", ".join(islice(names, ROOM_LIMIT))
        more = f" and {len(names) - ROOM_LIMIT} more" if len(names) > ROOM_LIMIT else ""
        partly = "; others can't be reached" if found is None and self.hall.node else ""
        self.reply(f"in {self.room}: {listed}{more}{partly}")
        self.go_on()

    def _quit(self, _: str) -> None:
        self._ask("/quit")
        self.hall.rooms[self.room].when_shown(self._leave)

    def _leave(self) -> None:
        if self._is_asking():
            self.reply("bye")
            self.connection.close()

    # Its name

    def _nick_command(self, name: str) -> None:
        folded = name.casefold()
        if not is_name(name):
            self.reply(f"a nickname has 1 to {NAME_LIMIT} letters, digits, - or _")
        elif _GIVEN.fullmatch(folded):
            self.reply(f"{name} is a guest's name: choose another one")
        elif folded == self.name.casefold():
            self._rename(name)
        elif folded in self.hall.names:
            self.reply(f"{name} is taken")
        else:
            self._ask(f"/nick {name}")
            self._take(name)

    def _take(self, name: str) -> None:
        """Take a name; while the other processes can't be reached, use it until they say otherwise."""
        self.hall.names[name.casefold()] = self
        self._claim = self.hall.backplane.take(
            _NAMES, name.casefold(), partial(self._on_taken, name),
            on_lost=partial(self._on_name_lost, name), token=self.token,
        )  # fmt: skip
        if self.hall.apart:
            self._use_claim(name)
        else:
            reactor = self.connection.reactor
            self._timer = reactor.call_later(ANSWER_TIMEOUT, self._refuse_claim, name, "there is no answer")

    def _on_taken(self, name: str, taken: bool) -> None:
        if self._frozen:
            return
        if self._claim is None or self._claim.name != name.casefold():  # it is used already
            self._on_kept(name, taken)
        elif taken:
            self._use_claim(name)
        else:
            self._refuse_claim(name, f"{name} is taken")

    def _on_kept(self, name: str, taken: bool) -> None:
        if not taken:
            self._on_name_lost(name)

    def _use_claim(self, name: str) -> None:
        self._end_timer()
        before, self._nick, self._claim = self._nick, self._claim, None
        if before is not None:
            before.give_back()
        del self.hall.names[self.name.casefold()]
        self._rename(name)
        self.go_on()

    def _refuse_claim(self, name: str, why: str) -> None:
        if self._frozen:
            return
        self._drop_claim(name)
        self.reply(f"{why}: you are still {self.name}" if why != f"{name} is taken" else why)
        self.go_on()

    def _drop_claim(self, name: str) -> None:
        self._end_timer()
        if self._claim is not None:
            self._claim.give_back()
            self._claim = None
        del self.hall.names[name.casefold()]

    def _rename(self, name: str) -> None:
        if self.hall.rooms[self.room].is_large():
            self.reply(f"{self.name} is now {name}")
        else:
            self.post(RENAMED, name)
        self.name = name
        self.take_place()
        self.inform()

    def _on_name_lost(self, name: str) -> None:
        """Give the name up, that another process has given to somebody else."""
        if self._frozen:
            return
        self._nick = None
        before = self.name
        self.hall.replace_name(self, name)
        self.name, after = before, self.name
        self._rename(after)

    def keep_name(self) -> None:
        """Take the name that it had in another process."""
        self._nick = self.hall.backplane.take(
            _NAMES, self.name.casefold(), partial(self._on_kept, self.name),
            on_lost=partial(self._on_name_lost, self.name), token=self.token,
        )  # fmt: skip

    def take_place(self) -> None:
        """Be listed in its room, for members of other processes."""
        if not self.hall.node:
            return
        before, name = self._place, self.name
        self._place = self.hall.backplane.take(_place(self.room), name, _ignore, token=self.token)
        if before is not None and (before.group, before.name) != (self._place.group, name):
            before.give_back()

    def give_place_back(self, *, hand_over: bool) -> None:
        """Be listed no more; hand_over: another process goes on with it."""
        place, self._place = self._place, None
        _give_back(place, hand_over=hand_over)

    def give_names_back(self, *, hand_over: bool) -> None:
        """Free its names; hand_over: another process goes on with them."""
        self._end_timer()
        self._asked, asked = "", self._asked.removeprefix("/nick ")
        for membership in (self._nick, self._claim):
            _give_back(membership, hand_over=hand_over)
        names = self.hall.names
        for name in {self.name.casefold(), asked.casefold()}:
            if names.get(name) is self:
                del names[name]

    def inform(self) -> None:
        """Send a client that shows them its name and room."""
        if self.client.state is not None:
            self.write(self.client.state(self))

    # Flow control

    def _ask(self, command: str) -> None:
        """Keep further lines waiting until `go_on`: the answer to this one comes later."""
        self._asked = command
        self.hold()

    def _is_asking(self) -> bool:
        """Return whether an answer is for this process: it has not left, and is not being handed over."""
        return bool(self._asked) and not self._frozen

    def go_on(self, again: str = "") -> None:
        """Handle the lines that wait. again: a command to be run before them."""
        self._asked = ""
        self.release()
        if again:
            self.handle(again)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hold(self) -> None:
        """Read nothing from this member until `release`."""
        self._holds += 1
        if self._holds == 1:
            self.connection.pause_reading()

    def release(self) -> None:
        """Read from this member again, if nothing else is against it."""
        self._holds -= 1
        if not (self._holds or self._frozen or self.connection.is_closing()):
            self.connection.resume_reading()

    def slow_down(self) -> None:
        """Read nothing from this member for `SLOWDOWN` seconds."""
        reactor = self.connection.reactor
        self._careful_until = reactor.time() + CARE
        if not self._slowed and not self.connection.is_closing():
            self._slowed = True
            self.hold()
            reactor.call_later(SLOWDOWN, self._speed_up)

    def _speed_up(self) -> None:
        self._slowed = False
        self.release()

    def is_slow(self) -> bool:
        """Return whether it does not keep up, after `write` has returned False."""
        return not self.connection.is_closing()

    # Handing over

    def freeze(self) -> bytes:
        """Return its name, its place and the command in progress, and show it nothing more."""
        room = self.hall.rooms[self.room]
        state = {
            "name": self.name,
            "chosen": self.has_chosen,
            "token": self.token,
            "room": self.room,
            "arriving": self not in room,
            "position": room.position(self),
            "again": self._asked,
            "apart": self.hall.apart,
            "unsent": room.unsent(),
        }
        room.freeze(self)
        self._frozen = True
        return json.dumps(state).encode()

    def thaw(self) -> None:
        """Go on here: the transfer has failed."""
        if not self._frozen:
            return
        self._frozen = False
        self.hall.rooms[self.room].thaw(self)
        if self._nick is not None and self._nick.held is False:
            self._on_name_lost(self.name)
        if self._claim is not None:
            self._drop_claim(self._claim.name)
        if self._asked:
            self.go_on(self._asked)
        elif not self._holds:
            self.connection.resume_reading()

    COMMANDS: ClassVar[dict[str, Callable[[Member, str], None]]] = {
        "/nick": _nick_command,
        "/join": _join,
        "/who": _who,
        "/quit": _quit,
    }


def is_name(text: str) -> bool:
    """Return whether it can be the name of a member or a room."""
    return 0 < len(text) <= NAME_LIMIT and text.replace("-", "").replace("_", "").isalnum()


def _place(room: str) -> str:
    return f"chat:room:{room}"


def _give_back(membership: Membership | None, *, hand_over: bool) -> None:
    if membership is not None:
        if hand_over:
            membership.hand_over()
        else:
            membership.give_back()


def _ignore(_: bool) -> None:
    """Do nothing: a name that is unique is unique in a room."""
