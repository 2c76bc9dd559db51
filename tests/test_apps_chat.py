"""Chat: who hears what, and that a slow member does not stop the room."""

import contextlib

import pytest

from reactor.apps.chat import Hall
from tests.helpers import pair, spin


class Guest:
    """A member's end, line by line."""

    def __init__(self, reactor, hall):
        self.reactor = reactor
        self.connection, self.peer = pair(reactor, hall())
        self.told = b""
        self.closed = False

    def say(self, *lines):
        self.peer.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def hear(self, until):
        """Return the lines up to the first that contains `until`, and forget them."""
        spin(self.reactor, lambda: self.receive() and until.encode() in self.told)
        end = self.told.index(b"\n", self.told.index(until.encode())) + 1
        lines, self.told = self.told[:end], self.told[end:]
        return lines.decode().splitlines()

    def receive(self):
        with contextlib.suppress(BlockingIOError):
            more = self.peer.recv(1 << 16)
            self.told += more
            self.closed = not more
        return True


@pytest.fixture
def hall():
    return Hall()


@pytest.fixture
def enter(reactor, hall):
    guests = []

    def enter():
        guests.append(Guest(reactor, hall))
        guests[-1].hear("has joined lobby")
        return guests[-1]

    yield enter
    for guest in guests:
        guest.peer.close()


def test_newcomer_is_named_and_announced(reactor, hall, enter):
    first, second = enter(), Guest(reactor, hall)
    assert first.hear("guest2") == ["* guest2 has joined lobby"]
    assert second.hear("joined") == [
        "* you are guest2; /nick NAME, /join ROOM, /who, /quit; everything else is said to the room",
        "* guest2 has joined lobby",
    ]
    second.peer.close()
    assert first.hear("left") == ["* guest2 has left"]


def test_room_hears_what_is_said(enter):
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    one.say("hello", "", "  how are you? ")
    assert two.hear("how") == ["guest1: hello", "guest1: how are you?"]
    assert one.hear("how") == ["guest1: hello", "guest1: how are you?"]


def test_nicknames(enter):
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    one.say("/nick Ada")
    assert two.hear("Ada") == ["* guest1 is now Ada"]
    two.say("/nick ada", "/nick a b", "/nick", "/nick " + "x" * 21)
    assert two.hear("taken") == ["* ada is taken"]
    assert len([two.hear("a nickname has 1 to 20 letters") for _ in range(3)]) == 3
    one.say("/nick ADA")
    assert two.hear("ADA") == ["* Ada is now ADA"]


def test_rooms(enter):
    one, two, three = enter(), enter(), enter()
    one.hear("guest3 has joined")
    two.hear("guest3 has joined")
    two.say("/join garden")
    assert one.hear("garden") == ["* guest2 went to garden"]
    assert two.hear("garden") == ["* guest2 has joined garden"]
    two.say("anybody here?", "/who")
    assert two.hear("in garden") == ["guest2: anybody here?", "* in garden: guest2"]
    one.say("/who")
    assert one.hear("in lobby") == ["* in lobby: guest1, guest3"]
    two.say("/join no such name", "/join garden", "/join lobby")
    assert two.hear("joined lobby") == [
        "* a room's name has 1 to 20 letters, digits, - or _",
        "* guest2 has joined lobby",
    ]
    three.say("bye")
    assert "anybody" not in "".join(one.hear("bye"))


def test_unknown_command_and_quit(reactor, enter):
    one = enter()
    one.say("/dance", "/quit", "never said")
    assert one.hear("there is no /dance")[0].startswith("* there is no /dance: /nick NAME")
    assert one.hear("bye") == ["* bye"]
    spin(reactor, lambda: one.receive() and one.closed)
    assert one.told == b""


def test_name_that_looks_like_a_guest_s_is_not_given_twice(enter):
    one = enter()
    one.say("/nick guest2")
    one.hear("is now guest2")
    enter()
    assert one.hear("joined") == ["* guest3 has joined lobby"]
    one.say("/nick guest1", "/nick guest2")
    one.hear("guest1 is now guest2")


def test_name_is_free_again_when_its_member_has_left(enter):
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    two.peer.close()
    one.hear("guest2 has left")
    one.say("/nick guest2")
    assert one.hear("now") == ["* guest1 is now guest2"]


def test_crowd_is_not_told_of_each_who_comes_and_goes(monkeypatch, reactor, hall, enter):
    monkeypatch.setattr("reactor.apps.chat.CROWD", 2)
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    three = enter()
    three.say("/who")
    assert three.hear("in lobby") == ["* in lobby: guest1, guest2 and 1 more"]
    three.peer.close()
    spin(reactor, lambda: len(hall.rooms["lobby"]) == 2)
    two.say("hello")
    assert one.hear("hello") == two.hear("hello") == ["guest2: hello"]
    two.peer.close()
    assert one.hear("left") == ["* guest2 has left"]


def test_control_characters_are_not_passed_on(enter):
    one = enter()
    one.say("\x1b[2Jclean\x07")
    assert one.hear("clean") == ["guest1: [2Jclean"]


def test_too_long_line_cuts_off_the_speaker_alone(reactor, hall, enter):
    one, two = enter(), enter()
    two.say("x" * 1025)
    assert one.hear("disconnected")[-1] == "* guest2 was disconnected"
    assert reactor.stats().closed == {"FrameTooLong": 1}
    one.say("still here")
    one.hear("still here")


def test_slow_member_is_dropped_and_not_the_room(reactor, hall, enter):
    one, _slow, two = enter(), enter(), enter()
    spoken = 0
    while not reactor.stats().closed:
        one.say(*["x" * 1000] * 20)
        spoken += 20
        for _ in range(3):
            reactor.run_once(0)
            one.receive()
            two.receive()
    assert reactor.stats().closed == {"SlowConsumer": 1}
    assert "guest2 was disconnected" in two.hear("disconnected")[-1]
    one.say("done")
    two.hear("guest1: done")
    assert "guest2" not in hall.names
    assert "guest3" in hall.names
