"""Chat: which members receive which lines, and that a slow member does not stop the room."""

import contextlib

import pytest

from reactor.apps.chat import Hall
from reactor.testing import Errors, MemoryReactor, Recorder
from tests.helpers import pair, spin


class Guest:
    """A member's end, line by line."""

    def __init__(self, reactor, hall):
        self.reactor = reactor
        self.connection, self.peer = pair(reactor, hall())
        self.received = b""
        self.closed = False

    def say(self, *lines):
        self.peer.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def hear(self, until):
        """Return the lines up to the first that contains `until`, and forget them."""
        spin(self.reactor, lambda: self.receive() and until.encode() in self.received)
        end = self.received.index(b"\n", self.received.index(until.encode())) + 1
        lines, self.received = self.received[:end], self.received[end:]
        return lines.decode().splitlines()

    def receive(self):
        with contextlib.suppress(BlockingIOError):
            more = self.peer.recv(1 << 16)
            self.received += more
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


def test_new_member_gets_a_name_and_is_announced(reactor, hall, enter):
    first, second = enter(), Guest(reactor, hall)
    assert first.hear("guest2") == ["* guest2 has joined lobby"]
    assert second.hear("joined") == [
        "* you are guest2; /nick NAME, /join ROOM, /who, /quit; everything else is said to the room",
        "* guest2 has joined lobby",
    ]
    second.peer.close()
    assert first.hear("left") == ["* guest2 has left"]


def test_line_is_sent_to_the_room(enter):
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    one.say("hello", "", "  how are you? ")
    assert two.hear("how") == ["guest1: hello", "guest1: how are you?"]
    assert one.hear("how") == ["guest1: hello", "guest1: how are you?"]


def test_nicknames_are_unique_and_checked(enter):
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    one.say("/nick Ada")
    assert two.hear("Ada") == ["* guest1 is now Ada"]
    two.say("/nick ada", "/nick a b", "/nick", "/nick " + "x" * 21)
    assert two.hear("taken") == ["* ada is taken"]
    assert len([two.hear("a nickname has 1 to 20 letters") for _ in range(3)]) == 3
    one.say("/nick ADA")
    assert two.hear("ADA") == ["* Ada is now ADA"]


def test_rooms_have_their_own_members(enter):
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


def test_unknown_command_is_refused_and_quit_closes(reactor, enter):
    one = enter()
    one.say("/dance", "/quit", "never said")
    assert one.hear("there is no /dance")[0].startswith("* there is no /dance: /nick NAME")
    assert one.hear("bye") == ["* bye"]
    spin(reactor, lambda: one.receive() and one.closed)
    assert one.received == b""


def test_guest_name_that_a_member_chose_is_not_given_again(enter):
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


def test_joins_leaves_and_new_names_are_not_announced_above_the_limit(monkeypatch, reactor, hall, enter):
    monkeypatch.setattr("reactor.apps.chat_room.ROOM_LIMIT", 2)
    monkeypatch.setattr("reactor.apps.chat_member.ROOM_LIMIT", 2)
    one, two = enter(), enter()
    one.hear("guest2 has joined")
    three = enter()
    three.say("/who")
    assert three.hear("in lobby") == ["* in lobby: guest1, guest2 and 1 more"]
    three.say("/nick ann")
    assert three.hear("now") == ["* guest3 is now ann"]
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


def test_too_long_line_disconnects_its_sender_only(reactor, hall, enter):
    one, two = enter(), enter()
    two.say("x" * 1025)
    assert one.hear("disconnected")[-1] == "* guest2 was disconnected"
    assert reactor.stats().closed == {"FrameTooLong": 1}
    one.say("still here")
    one.hear("still here")


@pytest.fixture
def memory():
    """A reactor in memory, with a manual clock."""
    errors = Errors()
    with MemoryReactor(on_error=errors) as memory:
        yield memory
        assert errors.seen == []


def members(memory, hall, count):
    """Return the clients' ends of `count` members that have all joined."""
    clients = [memory.pair(hall, Recorder)[1] for _ in range(count)]
    memory.settle()
    for client in clients:
        client.get_protocol().calls.clear()
    return clients


def heard(client):
    return client.get_protocol().received.decode().splitlines()


def queued(hall):
    """Return the bytes queued for all members."""
    return sum(member.connection.get_write_buffer_size() for member in hall.names.values())


def said(client, count, size):
    """Send `count` lines of `size` characters from `client`."""
    client.write(b"".join(f"{number:0{size}}\r\n".encode() for number in range(count)))


def test_members_that_read_stay_connected_when_all_speak_at_once(memory, hall):
    clients = members(memory, hall, 60)
    for client in clients:
        said(client, 20, 1000)
    memory.advance(120)
    assert memory.stats().closed == {}
    for client in clients:
        lines = heard(client)
        assert len(lines) == 60 * 20
        for number in range(1, 61):
            own = [line for line in lines if line.startswith(f"guest{number}: ")]
            assert own == [f"guest{number}: {said:01000}" for said in range(20)]


def test_a_member_goes_to_ten_rooms_a_minute_and_a_room_without_members_is_forgotten(memory, hall):
    (member,) = members(memory, hall, 1)

    def join(*rooms):
        member.get_protocol().calls.clear()
        for room in rooms:
            member.write(f"/join {room}\r\n".encode())
            memory.settle()
        return heard(member)

    assert join(*range(10)) == [f"* guest1 has joined {room}" for room in range(10)]
    memory.advance(20)
    assert join("more", "9") == ["* you went to 10 rooms within 60 s: wait 40 s"]
    assert list(hall.rooms) == ["9"]
    memory.advance(40)
    assert join("more") == ["* guest1 has joined more"]
    assert list(hall.rooms) == ["more"]
    assert hall.backplane.stats().topics == 1


def test_slow_member_receives_every_line(memory, hall):
    speaker, slow, other = members(memory, hall, 3)
    slow.pause_reading()
    said(speaker, 1000, 1000)
    while len(heard(slow)) < 1000:
        memory.advance(5)  # it reads now and then
        slow.resume_reading()
        memory.settle()
        slow.pause_reading()
        assert memory.stats().closed == {}
        assert queued(hall) < 1 << 20
    memory.advance(1)
    assert len(heard(other)) == len(heard(speaker)) == 1000


def test_member_that_reads_nothing_is_disconnected_and_does_not_stop_the_room(memory, hall):
    speaker, stuck, other = members(memory, hall, 3)
    stuck.pause_reading()
    said(speaker, 5000, 1000)
    memory.advance(10)
    before = len(heard(other))
    assert before >= 200  # the first 64 KiB at once, then ten a second
    assert memory.stats().closed == {}
    peak = 0
    for _ in range(30):
        memory.advance(1)
        peak = max(peak, queued(hall))
    assert memory.stats().closed == {"WriteTimeout": 1, "ECONNRESET": 1}  # both ends of the one that is stuck
    assert peak < 1 << 20
    memory.advance(1)
    assert [line for line in heard(other) if "guest2" in line] == ["* guest2 was disconnected"]
    assert len(heard(other)) == 5001
    assert set(hall.names) == {"guest1", "guest3"}


def test_members_that_read_nothing_are_disconnected_in_bounded_memory(memory, hall):
    speakers = members(memory, hall, 10)
    for client in speakers:
        client.pause_reading()
        said(client, 1000, 1000)
    peak = 0
    for _ in range(80):
        memory.advance(1)
        peak = max(peak, queued(hall))
    assert peak < 2 << 20
    assert memory.stats().closed["WriteTimeout"] == 10
    assert hall.names == {}


def test_flood_of_lines_does_not_stop_the_loop(reactor, hall, enter):
    loud, other = enter(), enter()
    loud.say(*["x"] * 10_000)
    reactor.run_once(1)
    other.say("/who")
    for _ in range(10):
        reactor.run_once(0)
        loud.receive()
        other.receive()
    assert b"* in lobby: guest1, guest2" in other.received
    assert other.received.count(b"guest1: x") < 200


def test_closing_member_slows_no_other(memory, hall):
    speaker, leaving, other = members(memory, hall, 3)
    leaving.pause_reading()
    said(speaker, 130, 1000)  # enough for the kernel's buffers and the first of ours
    memory.settle()
    leaving.write(b"/quit\r\n")
    memory.advance(1)
    count = len(heard(other))
    said(speaker, 1000, 10)
    memory.settle()
    assert len(heard(other)) >= count + 100
