"""Rooms that several processes share: on one backplane in memory, and on a broker that fails."""

import itertools
import json

import pytest

from reactor import HandedOver
from reactor.apps.chat import Hall
from reactor.apps.chat_member import SLOWDOWN
from reactor.apps.chat_message import SAID, Message
from reactor.backplane import BackplaneState, LocalBackplane, RedisBackplane
from reactor.testing import MemoryNetwork, MemoryReactor, Recorder
from tests.backplane.broker import Broker

DEAF = 8.0  # seconds within which members know that others can't be reached


class Guest:
    """A client in memory. hear() returns the lines since the last call."""

    def __init__(self, connection, settle):
        self.connection = connection
        self.settle = settle

    def say(self, *lines):
        self.connection.write("".join(f"{line}\r\n" for line in lines).encode())
        self.settle()

    def hear(self):
        self.settle()
        recorder = self.connection.get_protocol()
        lines = recorder.received.decode().splitlines()
        recorder.calls.clear()
        return lines

    def leave(self):
        self.connection.close()
        self.settle()


# On one backplane


class Place:
    """Halls on one backplane in memory, as processes on one broker."""

    def __init__(self, reactor, count=2, **options):
        self.reactor = reactor
        self.backplane = LocalBackplane(reactor, **{"history": 100, **options})
        self.halls = [Hall(self.backplane) for _ in range(count)]

    def enter(self, number=0, name=None):
        _, connection = self.reactor.pair(self.halls[number], Recorder)
        guest = Guest(connection, self.reactor.settle)
        guest.settle()
        guest.name = connection.get_protocol().received.decode().split()[3].rstrip(";")
        if name is not None:
            guest.say(f"/nick {name}")
            guest.name = name
        guest.hear()
        return guest


@pytest.fixture
def place():
    with MemoryReactor() as reactor:
        yield Place(reactor)


def test_line_reaches_all_processes_and_the_speaker_once_in_one_order(place):
    ann, bob, cat = place.enter(0, "ann"), place.enter(1, "bob"), place.enter(1, "cat")
    for guest in (ann, bob, cat):
        guest.hear()
    for number in range(5):
        ann.say(f"{number}")
        bob.say(f"{number}")
    heard = ann.hear()
    assert sorted(heard) == sorted(f"{name}: {number}" for name in ("ann", "bob") for number in range(5))
    assert bob.hear() == cat.hear() == heard


def test_joins_renames_and_leaves_are_announced_everywhere(place):
    ann = place.enter(0, "ann")
    bob = place.enter(1)
    assert ann.hear() == [f"* {bob.name} has joined lobby"]
    bob.say("/nick bob", "/join garden")
    assert ann.hear() == [f"* {bob.name} is now bob", "* bob went to garden"]
    assert bob.hear() == [f"* {bob.name} is now bob", "* bob has joined garden"]
    bob.say("/join lobby")
    bob.leave()
    assert ann.hear() == ["* bob has joined lobby", "* bob has left"]


def test_nickname_is_unique_in_all_processes_and_free_again(place):
    ann, bob = place.enter(0, "Ann"), place.enter(1)
    bob.say("/nick ann", "still here")
    assert bob.hear() == ["* ann is taken", f"{bob.name}: still here"]
    ann.say("/nick ANN", "/nick eve")
    bob.say("/nick ann", "/who")
    assert bob.hear()[-2:] == [f"* {bob.name} is now ann", "* in lobby: ann, eve"]
    bob.leave()
    ann.say("/nick ann")
    assert ann.hear()[-1] == "* eve is now ann"


def test_only_one_of_two_gets_a_name_at_the_same_time(place):
    ann, bob = place.enter(0), place.enter(1)
    for guest in (ann, bob):
        guest.connection.write(b"/nick me\r\nhello\r\n")
    ann.settle()
    heard = ann.hear() + bob.hear()
    assert heard.count("* me is taken") == 1
    assert heard.count("me: hello") == 2
    assert len({line for line in heard if line.endswith(": hello")}) == 2


def test_names_of_guests_differ_and_cannot_be_chosen(place):
    guests = [place.enter(number % 2) for number in range(20)]
    names = [guest.name for guest in guests]
    assert len(set(names)) == 20
    guests[0].hear()
    guests[0].say(f"/nick {names[1]}", "/nick guest99-abcd", "/nick guest99")
    assert guests[0].hear() == [
        f"* {names[1]} is a guest's name: choose another one",
        "* guest99-abcd is a guest's name: choose another one",
        f"* {names[0]} is now guest99",
    ]


def test_who_lists_the_members_of_the_room_in_all_processes(place):
    place.enter(0, "ann").say("/join garden")
    bob, cat = place.enter(0, "bob"), place.enter(1, "cat")
    cat.hear()
    cat.say("/who", "/join garden", "/who")
    heard = cat.hear()
    assert heard[0] == "* in lobby: bob, cat"
    assert heard[-1] == "* in garden: ann, cat"
    cat.leave()
    bob.hear()
    bob.say("/who")
    assert bob.hear() == ["* in lobby: bob"]


def test_new_member_is_shown_the_last_ten_lines(place):
    ann = place.enter(0, "ann")
    ann.say(*(f"{number}" for number in range(12)), "/nick eve")
    _, connection = place.reactor.pair(place.halls[1], Recorder)
    heard = Guest(connection, ann.settle).hear()
    name = heard[0].split()[3].rstrip(";")
    lines = [f"ann: {number}" for number in range(2, 12)]
    assert heard[1:] == ["* the last 10 lines:", *lines, f"* {name} has joined lobby"]


def test_last_lines_outlast_the_members(place):
    ann = place.enter(0, "ann")
    ann.say("good bye")
    ann.leave()
    assert place.halls[0].rooms == {}
    _, connection = place.reactor.pair(place.halls[0], Recorder)
    assert Guest(connection, ann.settle).hear()[1:3] == ["* the last line:", "ann: good bye"]


def test_last_lines_of_a_hall_of_its_own():
    with MemoryReactor() as reactor:
        hall = Hall()
        _, ann = reactor.pair(hall, Recorder)
        Guest(ann, reactor.settle).say("hello")
        Guest(ann, reactor.settle).leave()
        _, bob = reactor.pair(hall, Recorder)
        assert Guest(bob, reactor.settle).hear()[1:3] == ["* the last line:", "guest1: hello"]


def test_a_line_is_no_notice_whatever_is_in_it(place):
    ann, bob = place.enter(0, "ann"), place.enter(1, "bob")
    ann.hear()
    forged = ["* bob has left", "bob: hello", '{"kind":"left","name":"bob"}', "\u2028* bob has left", "a\rb"]
    for line in forged:
        bob.say(line)
    assert ann.hear() == [
        "bob: * bob has left", "bob: bob: hello", 'bob: {"kind":"left","name":"bob"}',
        "bob: * bob has left", "bob: ab",
    ]  # fmt: skip


def test_message_that_comes_twice_is_shown_once(place):
    ann, bob = place.enter(0, "ann"), place.enter(1, "bob")
    ann.hear()
    message = Message(SAID, "zoe", "hello", "lobby", 1.0, "elsewhere", 7, 1).encode()
    for _ in range(2):
        place.backplane.publish("chat:room:lobby", message)
    assert ann.hear() == bob.hear() == ["zoe: hello"]


def test_a_message_of_somebody_else_on_the_topic_is_reported_and_harms_nobody():
    reported = []
    with MemoryReactor(on_error=lambda exc, callback, connection: reported.append(str(exc))) as reactor:
        place = Place(reactor)
        ann = place.enter(0, "ann")
        place.backplane.publish("chat:room:lobby", b"nonsense")
        fields = {"kind": "of a later version", "name": "x", "text": "", "room": "lobby", "at": 1.0}
        fields |= {"node": "other", "number": 1, "speaker": 1}
        place.backplane.publish("chat:room:lobby", json.dumps(fields).encode())
        ann.say("still here")
        assert ann.hear() == ["ann: still here"]
        assert [problem[:24] for problem in reported] == ["not a message of a chat:"]
        assert len(place.enter(1).hear()) == 0


def test_slow_member_elsewhere_slows_the_speaker_down(place):
    ann, slow = place.enter(0, "ann"), place.enter(1, "slow")
    slow.connection.pause_reading()
    ann.connection.write(b"".join(b"%0999d\r\n" % number for number in range(1000)))
    peak = heard = 0
    while heard < 1000:
        place.reactor.advance(5)
        slow.connection.resume_reading()
        heard += len(slow.hear())
        slow.connection.pause_reading()
        (member,) = (m for m in place.halls[1].names.values() if m.name == "slow")
        peak = max(peak, member.connection.get_write_buffer_size())
    assert place.reactor.stats().closed == {}
    assert peak < 1 << 20
    assert len([line for line in ann.hear() if line.startswith("ann: ")]) == 1000


def test_line_that_is_refused_is_said_to_be():
    with MemoryReactor() as reactor:
        place = Place(reactor, max_queued=2500)
        ann, bob = place.enter(0, "ann"), place.enter(1, "bob")
        ann.hear()
        ann.connection.write(b"".join(b"%d %s\r\n" % (number, b"x" * 990) for number in range(5)))
        reactor.advance(2)
        heard = ann.hear()
        unsent = [line for line in heard if line.startswith("* not sent: ")]
        assert unsent
        assert len([line for line in bob.hear() if line.startswith("ann: ")]) == 5 - len(unsent)


# Handing members over


def freeze(place, name, hall=0):
    """Return the protocol of a member, and its state, as at the beginning of a transfer."""
    protocol = place.halls[hall].names[name].connection.get_protocol()
    return protocol, protocol.hand_over()


def take_over(place, state, hall=1):
    """Return a client whose connection another process goes on with."""
    connection, client = place.reactor.pair(Recorder, Recorder)
    place.reactor.settle()
    connection.set_protocol(place.halls[hall].take_over(connection, state))
    return Guest(client, place.reactor.settle)


def leave(place, protocol):
    protocol.connection.abort(HandedOver("it goes on elsewhere"))
    place.reactor.settle()


def test_member_goes_on_in_another_process_and_is_shown_each_line_once(place):
    ann, bob = place.enter(0, "ann"), place.enter(1, "bob")
    ann.say("/join room")
    bob.say("/join room")
    protocol, state = freeze(place, "ann")
    bob.say("1", "2")
    moved = take_over(place, state)
    bob.say("3")
    leave(place, protocol)
    bob.say("4", "/nick ann", "/who")
    assert moved.hear() == ["bob: 1", "bob: 2", "bob: 3", "bob: 4"]
    heard = bob.hear()
    assert "* ann is taken" in heard
    assert heard[-1] == "* in room: ann, bob"
    assert "ann" not in place.halls[0].names
    moved.say("here", "/nick eve", "/join lobby", "/who")
    assert moved.hear()[-1] == "* in lobby: eve"
    bob.say("/nick ann")
    assert bob.hear()[-1] == "* bob is now ann"


def test_member_that_was_arriving_arrives_in_the_other_process(place):
    place.reactor.pair(place.halls[0], Recorder)
    while not place.halls[0].names:
        place.reactor.run_once(0)
    (name,) = place.halls[0].names
    protocol, state = freeze(place, name)
    leave(place, protocol)
    bob = place.enter(1, "bob")
    assert take_over(place, state).hear() == [f"* {name} has joined lobby"]
    assert bob.hear() == [f"* {name} has joined lobby"]


def test_place_is_found_behind_more_lines_than_a_room_keeps():
    with MemoryReactor() as reactor:
        place = Place(reactor, history=1000)
        place.enter(0, "ann")
        bob = place.enter(1, "bob")
        protocol, state = freeze(place, "ann")
        bob.say(*(f"{number}" for number in range(300)))
        reactor.advance(5)
        moved = take_over(place, state)
        bob.say("last")
        leave(place, protocol)
        assert moved.hear() == [*(f"bob: {number}" for number in range(300)), "bob: last"]


@pytest.mark.parametrize("comes", [True, False])
def test_place_may_be_a_line_that_is_still_to_come(place, comes):
    place.enter(0, "ann")
    bob = place.enter(1, "bob")
    protocol, state = freeze(place, "ann")
    node, number = json.loads(state)["position"]
    known = json.dumps({**json.loads(state), "position": [place.halls[1].node, number + 1000]})
    moved = take_over(place, known.encode())
    leave(place, protocol)
    if comes:
        place.halls[1]._posts = itertools.count(number + 1000)
        place.halls[1].rooms["lobby"]._numbers = place.halls[1]._posts
    bob.say("seen before", "new")
    assert node == place.halls[1].node
    assert moved.hear() == (["bob: new"] if comes else [])
    place.reactor.advance(3)
    expected = [] if comes else ["* some lines may be missing here", "bob: seen before", "bob: new"]
    assert moved.hear() == expected


def test_member_whose_transfer_fails_is_shown_what_it_has_missed(place):
    ann, bob = place.enter(0, "ann"), place.enter(1, "bob")
    ann.hear()
    protocol, _ = freeze(place, "ann")
    bob.say("1", "2", "/who")
    assert ann.hear() == []
    assert bob.hear()[-1] == "* in lobby: ann, bob"
    protocol.reading_resumed()
    bob.say("3")
    assert ann.hear() == ["bob: 1", "bob: 2", "bob: 3"]
    ann.say("4")
    assert ann.hear() == ["ann: 4"]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("/nick eve", "* ann is now eve"),
        ("/nick bob", "* bob is taken"),
        ("/join garden", "* ann has joined garden"),
        ("/who", "* in lobby: ann, bob"),
    ],
)
@pytest.mark.parametrize("fails", [True, False])
def test_command_that_waits_for_its_answer_is_run_again(place, command, answer, fails):
    ann, bob = place.enter(0, "ann"), place.enter(1, "bob")
    member = place.halls[0].names["ann"]
    bob.hear()
    if command == "/join garden":
        member.handle("hello")  # which is to be shown first
    member.handle(command)
    protocol, state = freeze(place, "ann")
    place.reactor.settle()
    ann.hear()
    if fails:
        protocol.reading_resumed()
        moved = ann
    else:
        moved = take_over(place, state)
        leave(place, protocol)
    assert moved.hear()[-1] == answer
    moved.say("/who")
    assert moved.hear()[-1].count("ann") + moved.hear().count("eve") <= 1
    assert bob.hear().count("* ann went to garden") == (command == "/join garden")


# On a broker that fails


class Far:
    """Halls on hosts of their own, a broker on another, all in memory; clients are on each hall's host."""

    def __init__(self, network):
        self.network = network
        self.broker = Broker(network.reactor("10.0.0.1"), "10.0.0.1:6379")
        self.halls = []

    def host(self, **options):
        number = len(self.halls) + 2
        reactor = self.network.reactor(f"10.0.0.{number}")
        hall = Hall(RedisBackplane(reactor, "redis://10.0.0.1", **options))
        reactor.listen(":9000", hall)
        clients = self.network.reactor(f"10.0.1.{number}")
        self.halls.append(hall)
        self.network.advance(1)

        def enter(name=None):
            connector = clients.connect((f"10.0.0.{number}", 9000), Recorder)
            self.network.advance(0.2)
            guest = Guest(connector.connection, lambda: self.network.advance(0.3))
            if name is not None:
                guest.say(f"/nick {name}")
                guest.hear()
            return guest

        return enter

    def cut_off(self, number):
        self.network.partition("10.0.0.1", f"10.0.0.{number + 2}")


@pytest.fixture
def far():
    with MemoryNetwork(seed=1, latency=(0.001, 0.01)) as network:
        yield Far(network)


APART = "* the others can't be reached: what you say is shown here, and to them when they can be again"
AGAIN = "* the others can be reached again"


def test_members_are_told_of_a_broker_that_is_away_and_lines_are_neither_lost_nor_doubled(far):
    here, there = far.host(), far.host()
    ann, bob, cat = here("ann"), here("bob"), there("cat")
    for guest in (ann, bob, cat):
        guest.hear()
    ann.say("before")
    assert ann.hear() == bob.hear() == cat.hear() == ["ann: before"]
    far.cut_off(0)
    ann.say("on its way")
    assert cat.hear() == []
    far.network.advance(DEAF)
    assert ann.hear() == bob.hear() == [APART, "ann: on its way"]
    bob.say("is anybody there?")
    assert ann.hear() == bob.hear() == ["bob: is anybody there?"]
    cat.say("hello?")
    assert cat.hear() == ["cat: hello?"]
    dan = here()
    assert dan.hear()[1] == APART
    dan.leave()
    ann.hear(), bob.hear()
    far.network.heal()
    far.network.advance(DEAF)
    heard = ann.hear()
    assert heard == bob.hear()
    assert sorted(heard) == sorted(["cat: hello?", AGAIN])
    assert [line for line in cat.hear() if ": " in line] == ["ann: on its way", "bob: is anybody there?"]
    ann.say("after")
    assert ann.hear() == bob.hear() == cat.hear() == ["ann: after"]


def test_names_and_who_while_the_others_cannot_be_reached(far):
    here, there = far.host(), far.host()
    ann, cat = here("ann"), there("cat")
    far.cut_off(0)
    far.network.advance(DEAF)
    ann.hear()
    ann.say("/who", "/nick eve", "/who")
    assert ann.hear() == [
        "* in lobby: ann; others can't be reached",
        "* ann is now eve",
        "* in lobby: eve; others can't be reached",
    ]
    far.network.advance(20)
    cat.say("/nick ann")
    assert "is now ann" in cat.hear()[-1]
    ann.say("/nick ann")
    far.network.heal()
    far.network.advance(DEAF)
    heard = ann.hear()
    (taken,) = (line for line in heard if line.startswith("* ann is taken: you are guest"))
    name = taken.split()[-1]
    assert heard[-1] in {f"* ann is now {name}", AGAIN, taken}
    cat.hear()
    cat.say("/who")
    assert cat.hear() == [f"* in lobby: ann, {name}"]


def test_name_that_is_not_answered_is_refused_after_a_while(monkeypatch, far):
    monkeypatch.setattr("reactor.apps.chat_member.ANSWER_TIMEOUT", 1.0)
    here = far.host()
    ann = here("ann")
    far.broker.hang()
    ann.say("/nick eve", "hello")
    assert ann.hear() == []
    far.network.advance(1)
    assert ann.hear() == ["* there is no answer: you are still ann"]
    far.broker.resume()
    assert ann.hear() == ["ann: hello"]
    ann.say("/nick eve")
    assert ann.hear() == ["* ann is now eve"]


def test_lines_that_the_broker_has_lost_are_reported(far):
    here, there = far.host(), far.host()
    ann, bob = here("ann"), there("bob")
    ann.hear()
    saved = far.broker.save()
    bob.say("lost")
    assert ann.hear() == ["bob: lost"]
    far.broker.options["appendonly"] = "no"
    far.broker.restart(saved)
    far.network.advance(10)
    assert "* some lines may be missing here" in ann.hear()
    bob.hear()
    bob.say("after")
    assert ann.hear()[-1] == bob.hear()[-1] == "bob: after"


@pytest.mark.parametrize(("said", "notice"), [(6, "* 1 line was lost here"), (9, "* 4 lines were lost here")])
def test_number_of_lines_that_the_history_has_no_more_is_reported(far, said, notice):
    here, there = far.host(), far.host(history=5)
    ann, bob = here("ann"), there("bob")
    far.cut_off(0)
    far.network.advance(DEAF)
    for number in range(said):
        bob.say(f"{number}")
    ann.hear()
    far.network.heal()
    far.network.advance(DEAF)
    heard = [line for line in ann.hear() if line != AGAIN]
    assert heard == [notice, *(f"bob: {number}" for number in range(said - 5, said))]


def test_lines_of_one_member_that_is_slow_are_not_asked_to_be_slow_too_often(far):
    here, there = far.host(), far.host()
    ann, bob = here("ann"), there("bob")
    bob.connection.pause_reading()
    published = far.halls[1].backplane.stats().published
    ann.connection.write(b"".join(b"%0999d\r\n" % number for number in range(300)))
    far.network.advance(20)
    asked = far.halls[1].backplane.stats().published - published
    assert 0 < asked <= 20 / SLOWDOWN * 2
    bob.connection.resume_reading()
    far.network.advance(20)
    assert len([line for line in bob.hear() if line.startswith("ann: ")]) == 300


def test_first_member_of_a_hall_without_a_broker_is_told_after_a_second(far):
    far.broker.stop()
    ann = far.host()()
    (greeting,) = ann.hear()
    far.network.advance(1)
    assert ann.hear() == [APART, f"* {greeting.split()[3].rstrip(';')} has joined lobby"]


def test_answer_to_who_comes_after_the_lines_before_it(far):
    ann = far.host()("ann")
    ann.hear()
    for number in range(10):  # each connection to the broker has a latency of its own
        ann.connection.write(b"%d\r\n/who\r\n" % number)
        far.network.advance(1)
        assert ann.hear() == [f"ann: {number}", "* in lobby: ann"]


def test_a_hall_without_a_broker_serves_and_says_so(far):
    far.broker.stop()
    here = far.host()
    assert far.halls[0].apart is False  # nobody is there who could notice
    far.network.advance(DEAF)
    ann = here()
    heard = ann.hear()
    assert heard[1] == APART
    ann.say("/nick ann", "hello", "/who")
    assert ann.hear()[-3:] == [heard[-1].replace("has joined lobby", "is now ann"), "ann: hello",
                               "* in lobby: ann; others can't be reached"]  # fmt: skip


# Restarted, and entered, while the broker is away


def restart(far, number, *, keep=(), **options):
    """Hand the members of a hall over to a new one, as a restart does; return the clients by their names.

    keep: names of those whose transfer fails: they stay.
    """
    old = far.halls[number]
    frozen = [(name, each.connection.get_protocol()) for name, each in list(old.names.items())]
    states = {name: protocol.hand_over() for name, protocol in frozen}
    far.host(**options)
    hall, reactor = far.halls[-1], far.network.reactors[-2]
    moved = {}
    for name, protocol in frozen:
        if name in keep:
            protocol.reading_resumed()
            continue
        connection, client = reactor.pair(Recorder, Recorder)
        far.network.settle()
        connection.set_protocol(hall.take_over(connection, states[name]))
        protocol.connection.abort(HandedOver("it goes on elsewhere"))
        moved[name] = Guest(client, lambda: far.network.advance(0.3))
    if not keep:
        old.backplane.close()
    return moved


def away(far):
    """Stop the broker, and wait until the members know."""
    far.broker.stop()
    far.network.advance(DEAF)


def back(far):
    far.broker.start()
    far.network.advance(DEAF)


def heard_of(guest):
    """Return the lines that were said, without those about members."""
    return [line for line in guest.hear() if not line.startswith("* ") or line in {APART, AGAIN, GAP}]


def moved_in_an_outage(far):
    """Return ann, who was moved to another process while the broker was away, and cat, who said 1 then."""
    here, there = far.host(), far.host()
    here("ann")
    cat = there("cat")
    away(far)
    ann = restart(far, 0)["ann"]
    cat.say("1")
    ann.hear()
    return ann, cat


GAP = "* some lines may be missing here"


def test_lines_that_wait_for_the_broker_go_on_with_the_members_at_a_restart(far):
    here, there = far.host(), far.host()
    ann, bob, cat = here("ann"), here("bob"), there("cat")
    away(far)
    ann.say("1")
    bob.say("2")
    cat.say("3")
    assert heard_of(ann)[-3:] == [APART, "ann: 1", "bob: 2"]
    heard_of(cat)
    moved = restart(far, 0)
    moved = restart(far, 2)  # and once more
    moved["ann"].say("4")
    assert heard_of(moved["ann"]) == heard_of(moved["bob"]) == ["ann: 4"]
    back(far)
    moved["bob"].say("5")
    heard = heard_of(moved["ann"])
    assert heard == heard_of(moved["bob"])
    assert sorted(heard) == sorted(["cat: 3", AGAIN, "bob: 5"])
    assert [line for line in heard_of(cat) if line != AGAIN] == ["ann: 1", "bob: 2", "ann: 4", "bob: 5"]
    bob = there()
    lines = bob.hear()
    first = lines.index("* the last 5 lines:") + 1
    assert sorted(lines[first : first + 5]) == ["ann: 1", "ann: 4", "bob: 2", "bob: 5", "cat: 3"]


def test_line_that_was_not_shown_yet_at_a_restart_is_shown_by_the_next_process(far):
    here, there = far.host(), far.host()
    ann, cat = here("ann"), there("cat")
    ann.hear()
    far.broker.stop()
    far.network.advance(0.1)
    ann.connection.write(b"hello\r\n")
    far.network.advance(0.1)
    assert ann.hear() == []
    moved = restart(far, 0)
    far.network.advance(DEAF)
    heard = heard_of(moved["ann"])
    back(far)
    assert heard + heard_of(moved["ann"]) == [APART, "ann: hello", AGAIN]
    assert "ann: hello" in heard_of(cat)


def test_lines_that_both_processes_send_are_shown_once(far):
    here, there = far.host(), far.host()
    ann, cat = here("ann"), there("cat")
    here("bob")
    away(far)
    ann.say("1", "2")
    heard_of(cat)
    moved = restart(far, 0, keep=["bob"])
    back(far)
    moved["ann"].say("3")
    assert heard_of(moved["ann"]) == [AGAIN, "ann: 3"]
    assert [line for line in heard_of(cat) if line != AGAIN] == ["ann: 1", "ann: 2", "ann: 3"]
    assert there().hear()[1:5] == ["* the last 3 lines:", "ann: 1", "ann: 2", "ann: 3"]


def test_what_others_said_before_the_next_process_was_connected_is_shown_in_its_order(far):
    here, there = far.host(), far.host()
    ann, cat = here("ann"), there("cat")
    cat.say("before")
    away(far)
    assert heard_of(ann)[-2:] == ["cat: before", APART]
    cat.say(*(f"{number}" for number in range(120)))
    moved = restart(far, 0)
    far.cut_off(2)
    moved["ann"].say("mine")
    back(far)
    cat.say("later")
    assert heard_of(moved["ann"]) == ["ann: mine"]
    far.network.heal()
    for number in range(20):
        cat.say(f"live {number}")
    heard = heard_of(moved["ann"])
    heard.remove(AGAIN)
    said = [*range(120), "later", *(f"live {number}" for number in range(20))]
    assert heard == [f"cat: {what}" for what in said]


@pytest.mark.parametrize("loss", ["trimmed", "empty"])
def test_a_member_whose_place_the_history_has_no_more_is_told(far, loss):
    here, there = far.host(), far.host(history=5)
    ann, cat = here("ann"), there("cat")
    cat.say("before")
    away(far)
    heard_of(ann)
    cat.say(*(f"{number}" for number in range(9)))
    moved = restart(far, 0)
    far.cut_off(2)
    if loss == "empty":
        far.broker.flush()
    back(far)
    far.network.heal()
    far.network.advance(DEAF)
    heard = moved["ann"].hear()
    assert heard.index(GAP) < heard.index("* the last 5 lines:")
    assert heard[heard.index(GAP) + 2 :][:5] == [f"cat: {number}" for number in range(4, 9)]


def test_last_lines_that_are_shown_afterwards_come_before_those_that_have_come_since(far):
    here, there = far.host(), far.host()
    here("ann"), there("cat")
    away(far)
    moved = restart(far, 0)
    moved["ann"].hear()
    far.broker.flush()
    far.broker.start()
    backplanes = [far.halls[number].backplane for number in (1, 2)]
    while not all(backplane.state is BackplaneState.UP for backplane in backplanes):
        far.network.advance(0.01)
    assert far.halls[2].apart  # the history was not read yet
    post, posted = far.broker.post, []

    def post_first(channel, payload):
        if not channel.endswith(b":lobby"):
            return post(channel, payload)
        posted.append(payload)
        return post(channel, payload) if len(posted) == 1 else 0

    far.broker.post = post_first  # so that the history has more than has come
    publish(far, *said(*range(1, 31)))
    far.broker.post = post
    far.network.advance(1)
    publish(far, *said(31))
    heard = heard_of(moved["ann"])
    heard.remove(AGAIN)
    assert heard == [GAP, *(f"elsewhere: {number}" for number in range(1, 32))]


def test_answer_for_a_name_that_is_used_already_is_none_for_the_next_one(far):
    here, there = far.host(), far.host()
    ann, bob = here("ann"), there("bob")
    ann.hear()
    away(far)
    far.broker.start()
    while far.halls[0].backplane.state is not BackplaneState.UP:
        far.network.advance(0.01)
    assert far.halls[0].apart  # for a moment
    far.broker.hang()
    ann.say("/nick eve")
    while far.halls[0].apart:
        far.network.advance(0.01)
    ann.say("/nick dan")
    far.broker.resume()
    ann.say("/nick zoe")
    renamed = [line for line in ann.hear() if " is now " in line]
    assert renamed == ["* ann is now eve", "* eve is now dan", "* dan is now zoe"]
    bob.say("/nick zoe", "/nick eve", "/nick dan")
    assert bob.hear()[-3:] == ["* zoe is taken", "* bob is now eve", "* eve is now dan"]


def test_who_enters_while_others_cannot_be_reached_is_shown_the_last_lines_afterwards(far):
    here, there = far.host(), far.host()
    cat = there("cat")
    cat.say("/join garden")
    far.cut_off(0)
    far.network.advance(DEAF)
    dan = here()
    dan.say("/join garden", "hello")
    cat.say(*(f"{number}" for number in range(12)))
    dan.hear()
    far.network.heal()
    far.network.advance(DEAF)
    heard = heard_of(dan)
    assert sorted(heard) == sorted([AGAIN, *(f"cat: {number}" for number in range(2, 12))])
    eve = here()
    eve.say("/join garden")
    assert "* the last 10 lines:" in eve.hear()
    cat.say("after")
    assert dan.hear()[-1] == "cat: after"


def test_member_whose_transfer_fails_while_the_history_is_read_is_told_what_it_may_miss(far):
    ann, cat = moved_in_an_outage(far)
    member = far.halls[2].names["ann"]
    protocol = member.connection.get_protocol()
    protocol.hand_over()
    back(far)
    cat.say("2")
    assert ann.hear() == []
    protocol.reading_resumed()
    cat.say("3")
    heard = ann.hear()
    assert GAP in heard
    assert heard[-2:] == ["cat: 2", "cat: 3"]


def test_line_that_was_shown_early_is_not_shown_again_after_a_restart(far):
    here, there = far.host(), far.host()
    ann, cat = here("ann"), there("cat")
    far.cut_off(0)
    far.network.advance(DEAF)
    ann.say("early")
    cat.say("meanwhile")
    far.network.heal()
    far.network.advance(DEAF)
    assert "cat: meanwhile" in heard_of(ann)
    assert "ann: early" in heard_of(cat)
    moved = restart(far, 0)
    cat.say("after")
    assert heard_of(moved["ann"]) == ["cat: after"]


def said(*numbers, node="elsewhere"):
    return [Message(SAID, node, f"{n}", "lobby", 1.0, node, n, 1).encode() for n in numbers]


def publish(far, *messages):
    for message in messages:
        far.halls[1].backplane.publish("chat:room:lobby", message)
    far.network.advance(0.02)


def test_place_of_a_member_may_be_a_message_that_came_twice(far):
    here, there = far.host(), far.host()
    ann, cat = here("ann"), there("cat")
    publish(far, *said(1), *said(1, node="other"), *said(1))
    assert heard_of(ann) == ["elsewhere: 1", "other: 1"]
    moved = restart(far, 0)
    cat.say("after")
    assert heard_of(moved["ann"]) == ["cat: after"]


def test_place_of_a_member_may_be_a_message_that_the_history_has_and_that_is_still_to_come(far):
    here, there = far.host(), far.host()
    here("ann"), there("cat")
    state = far.halls[0].names["ann"].connection.get_protocol().hand_over()
    post = far.broker.post
    far.broker.post = lambda channel, payload: 0 if channel.endswith(b":lobby") else post(channel, payload)
    publish(far, *said(1))
    known = {**json.loads(state), "position": ["elsewhere", 1]}
    connection, client = far.network.reactors[3].pair(Recorder, Recorder)
    far.network.settle()
    connection.set_protocol(far.halls[1].take_over(connection, json.dumps(known).encode()))
    moved = Guest(client, lambda: far.network.advance(0.3))
    assert heard_of(moved) == []
    far.broker.post = post
    publish(far, *said(2))
    assert heard_of(moved) == ["elsewhere: 2"]


def test_messages_that_were_published_twice_are_shown_once_when_the_history_can_be_read(far):
    here, there = far.host(), far.host()
    here("ann"), there("cat")
    away(far)
    moved = restart(far, 0)
    far.cut_off(2)
    moved["ann"].hear()
    back(far)
    publish(far, *said(1, 2, 3), *said(1, node="other"))
    far.network.heal()
    for number in range(4, 100):  # while the other process connects, and reads
        publish(far, *said((number - 4) % 3 + 1), *said(number))
    far.network.advance(DEAF)
    heard = heard_of(moved["ann"])
    heard.remove(AGAIN)
    numbers = [f"elsewhere: {number}" for number in range(1, 100)]
    assert heard == [*numbers[:3], "other: 1", *numbers[3:]]


@pytest.mark.parametrize("times", [1, 30])
def test_history_that_cannot_be_read_at_once_is_read_later_and_nothing_is_shown_twice(far, times):
    here, there = far.host(), far.host()
    here("ann"), there("cat")
    away(far)
    moved = restart(far, 0)
    dan = there()
    failures = []

    def cut(session, command):
        if command[0] == b"XREVRANGE" and len(failures) < times:
            failures.append(session)
            session.connection.abort()
            return b"nil"
        return None

    far.broker.fault = cut
    heard_of(dan)
    far.broker.start()
    for number in range(1, 200):
        publish(far, *said(number))
    while len(failures) < times:
        far.network.advance(1)
    far.network.advance(DEAF)
    numbers = [f"elsewhere: {number}" for number in range(1, 200)]
    heard = heard_of(moved["ann"])
    shown = [line for line in heard if line not in {APART, AGAIN}]
    assert sorted(shown) == sorted(numbers)
    assert shown == numbers or times > 1  # after two seconds they are shown what has come
    assert heard.count(AGAIN) == heard.count(APART) + 1


def test_member_whose_transfer_fails_while_the_history_is_read_is_shown_it_too(far):
    ann, cat = moved_in_an_outage(far)
    protocol = far.halls[2].names["ann"].connection.get_protocol()
    room = far.halls[2].rooms["lobby"]
    protocol.hand_over()
    far.broker.start()
    while room.loaded:
        far.network.advance(0.001)
    protocol.reading_resumed()
    far.network.advance(DEAF)
    cat.say("2")
    assert [line for line in heard_of(ann) if line != AGAIN] == ["cat: 1", "cat: 2"]


def test_line_that_is_said_while_the_history_is_read_is_shown_to_who_entered_in_the_outage(far, monkeypatch):
    here, there = far.host(), far.host()
    cat = there("cat")
    cat.say("/join garden")
    far.cut_off(0)
    far.network.advance(DEAF)
    dan = here("dan")
    dan.say("/join garden")
    dan.hear()
    room = far.halls[0].rooms["garden"]
    read_last, call_later = RedisBackplane.read_last, far.network.reactors[1].call_later
    monkeypatch.setattr(RedisBackplane, "read_last", lambda *args: call_later(0.3, read_last, *args))
    far.network.heal()
    while room.loaded:
        cat.connection.write(b"hello\r\n")
        far.network.advance(0.01)
    assert far.halls[0].apart  # for a moment
    dan.connection.write(b"mine\r\n")
    far.network.advance(DEAF)
    heard = heard_of(dan)
    assert heard.count("dan: mine") == 1
    assert "cat: hello" in heard


def test_lines_that_come_with_two_members_are_shown_once(far):
    here, there = far.host(), far.host()
    ann = here("ann")
    here("bob")
    cat = there("cat")
    away(far)
    ann.say("1")
    heard_of(cat)
    states = []
    for name in ("ann", "bob"):  # one after the other, as from two processes
        protocol = far.halls[0].names[name].connection.get_protocol()
        states.append(protocol.hand_over())
        protocol.reading_resumed()
    far.host()
    clients = []
    for state in states:
        connection, client = far.network.reactors[-2].pair(Recorder, Recorder)
        connection.set_protocol(far.halls[-1].take_over(connection, state))
        clients.append(Guest(client, lambda: far.network.advance(0.3)))
    assert [heard_of(client) for client in clients] == [[], []]
    back(far)
    assert "ann: 1" in heard_of(cat)


def test_member_is_told_when_the_next_process_knows_more_of_the_others(far):
    here, there = far.host(), far.host()
    ann = here("ann")
    away(far)
    assert heard_of(ann) == [APART]
    state = far.halls[0].names["ann"].connection.get_protocol().hand_over()
    back(far)
    connection, client = far.network.reactors[3].pair(Recorder, Recorder)
    there()
    connection.set_protocol(far.halls[1].take_over(connection, state))
    moved = Guest(client, lambda: far.network.advance(0.3))
    assert heard_of(moved) == [AGAIN]


def test_command_that_waits_for_a_line_goes_on_when_others_cannot_be_reached(far):
    here = far.host()
    ann, bob, dan = here("ann"), here("bob"), here("dan")
    dan.say("/join kitchen")
    for guest in (ann, bob, dan):
        guest.hear()
    far.broker.hang()
    ann.say("hello", "/join garden")
    bob.say("still here")
    dan.say("me too")
    far.network.advance(DEAF)
    assert [line for line in bob.hear() if line != "* ann went to garden"] == [
        APART, "ann: hello", "bob: still here",
    ]  # fmt: skip
    assert dan.hear() == [APART, "dan: me too"]
    heard = ann.hear()
    assert [line for line in heard if line != "bob: still here"] == [
        APART, "ann: hello", "* ann has joined garden",
    ]  # fmt: skip
