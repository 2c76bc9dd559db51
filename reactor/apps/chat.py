"""Chat: each line is sent to all members of a room, under nicknames, in one process or in many.

What joins the processes is a backplane: a room is a topic of it, and a nickname is a name that is taken
there. `chat_room` has the rooms, `chat_message` what is published, `chat_web` the page for browsers; here are
the members with their commands, and the clients that speak lines, as telnet does.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from math import ceil
from secrets import choice, token_hex
from typing import Any, ClassVar

import attrs

from reactor.apps.chat_message import JOINED, LEFT, RENAMED, SAID, Message
from reactor.apps.chat_room import KEPT, Client, Position, Room
from reactor.backplane import Backplane, BackplaneState, LocalBackplane, Membership
from reactor.connection.connection import Connection
from reactor.errors import HandedOver
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.loop.timers import Handle
from reactor.reactor import Reactor

__all__ = ["HISTORY_AGE", "Hall", "Member"]

log = logging.getLogger("reactor")

#: The limits of a line in bytes, and of a nickname or a room's name in characters.
LINE_LIMIT = 1024
NAME_LIMIT = 20

#: The limit of members, in this process, up to which joins, leaves and new names are announced, and of names
#: that /who lists. The notices of a larger room would grow with the square of its members.
ROOM_LIMIT = 100

#: The write timeout: seconds in which a member must receive some of its queued lines, or be disconnected.
WRITE_TIMEOUT = 30.0

#: Seconds for which a sender is not read from after a line that put a member above its high-water mark. It
#: slows the sender down, so that members that read receive every line, and no member can stop a room.
SLOWDOWN = 0.1

#: Seconds after that in which each line of the sender waits until the one before is shown.
CARE = 1.0

#: Lines of a member that are handled in one tick: each is written to the whole room.
LINES_PER_TICK = 10

#: Rooms that a member can go to within so many seconds: a broker keeps what each was sent for a day.
MOVES = 10
MOVES_WITHIN = 60.0

#: Seconds that a member's further lines wait for a nickname to be taken.
ANSWER_TIMEOUT = 5.0

#: Seconds for which the last lines of a room are kept.
HISTORY_AGE = 24 * 3600.0

# Seconds between looks at the backplane's state; twice not up is what members are informed of.
_LOOK = 0.5

LOBBY = "lobby"
_NAMES = "chat:names"

# A name that was given, in a hall that shares its rooms: nobody can choose one of this form.
_GIVEN = re.compile(r"guest\d+-[a-z0-9]{4}")
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"

HELP = "/nick NAME, /join ROOM, /who, /quit; everything else is said to the room"

_APART = "the others can't be reached: what you say is shown here, and to them when they can be again"
_JOINED_AGAIN = "the others can be reached again"
_UNSENT = "not sent: too much waits for the others, who can't be reached"


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
        if len(room) > ROOM_LIMIT:
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
        here = room.remove(member)
        member.give_place_back(hand_over=why is None)
        if here and why is not None and len(room) < ROOM_LIMIT:
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
        """Go on with what a member of another process was told of the others; apart: it can't reach them."""
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


@attrs.define(eq=False, repr=False)
class Member:
    """A member, whatever its client is.

    hall: its server's. connection: of its client. write: sends what `client.encode` has returned. number: its
    own in this process. name: its nickname. room: the name of its room. token: with which another process may
    take its names.
    """

    hall: Hall
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
        if self._claim is None:  # it is used already
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
        if len(self.hall.rooms[self.room]) > ROOM_LIMIT:
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
