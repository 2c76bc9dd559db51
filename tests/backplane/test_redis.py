"""`RedisBackplane` and its broker: several nodes, lost connections, restarts, deafness, dead nodes."""

import subprocess
import sys
from functools import partial

import pytest

from reactor import AddressError, Reactor, Reconnect
from reactor.backplane import BackplaneState, RedisBackplane
from tests.backplane.broker import Broker, Error
from tests.backplane.nodes import QUICK, seconds_until, settled, up
from tests.backplane.test_interface import subscribed

# On both brokers


def test_nodes_get_each_others_messages_in_the_same_order(world):
    nodes = [world.node() for _ in range(3)]
    heard = [subscribed(node) for node in nodes]
    world.spin(lambda: settled(*nodes))
    for number in range(50):
        for index, node in enumerate(nodes):
            node.publish("topic", b"%d.%d" % (index, number))
    world.spin(lambda: all(len(each.events) == 150 for each in heard))
    assert heard[0].events == heard[1].events == heard[2].events
    for index in range(3):
        mine = [event for event in heard[0].events if event.startswith(b"%d." % index)]
        assert mine == [b"%d.%d" % (index, number) for number in range(50)]


def test_worlds_with_other_prefixes_and_databases_hear_nothing(world):
    node, heard = world.node(), []
    other = RedisBackplane(world.reactor, world.url + "?db=1", prefix=world.prefix)
    world.nodes.append(other)
    other.subscribe("topic", lambda topic, data: heard.append(data))
    world.spin(lambda: settled(node, other))
    node.publish("topic", b"not there")
    other.publish("topic", b"there")
    world.spin(lambda: heard)
    assert heard == [b"there"]


def test_what_is_missed_while_cut_off_is_read_from_the_history(world):
    node, other = world.node(), world.node(reconnect=QUICK)
    heard = subscribed(other)
    world.spin(lambda: settled(node, other))
    other._receiver.connection.abort()
    sent = [b"%d" % number for number in range(200)]
    for data in sent:
        node.publish("topic", data)
    world.spin(lambda: len(heard.events) == 200)
    assert heard.events == sent
    world.spin(lambda: settled(node, other))
    assert other.stats().recovered > 0
    assert other.stats().missed == other.stats().unknown_gaps == 0


def test_what_the_history_has_lost_is_reported_by_its_number(world):
    node, other = world.node(history=1), world.node(reconnect=Reconnect(first=0.2, max_delay=0.2))
    heard = subscribed(other)
    world.spin(lambda: settled(node, other))
    node.publish("topic", b"first")
    world.spin(lambda: heard.events)
    other._receiver.connection.abort()
    for number in range(1000):
        node.publish("topic", b"%d" % number)
    world.spin(lambda: len(heard.events) > 1 and settled(node, other))
    position = 0
    for event in heard.events[1:]:
        assert isinstance(event, int) or event == b"%d" % position
        position += event if isinstance(event, int) else 1
    assert position == 1000
    gaps = [event for event in heard.events if isinstance(event, int)]
    assert other.stats().missed == sum(gaps) > 100  # the server trims by blocks


def test_history_is_bounded_by_age(world):
    node = world.node(history_age=0.1)
    other = world.node(reconnect=Reconnect(first=0.4, max_delay=0.4, random=lambda: 1.0))
    heard = subscribed(other)
    world.spin(lambda: settled(node, other))
    other._receiver.connection.abort()
    node.publish("topic", b"lost")
    world.spin(lambda: heard.events)
    assert heard.events == [1]


def test_a_gap_without_a_handler_is_logged(world, caplog):
    node = world.node(history_age=0.1)
    other = world.node(reconnect=Reconnect(first=0.4, max_delay=0.4, random=lambda: 1.0))
    other.subscribe("topic", print)
    world.spin(lambda: settled(node, other))
    other._receiver.connection.abort()
    node.publish("topic", b"lost")
    world.spin(lambda: other.stats().missed)
    assert "1 messages of topic topic are missing" in caplog.text


def test_what_a_gap_handler_raises_is_reported(world, errors):
    node = world.node(history_age=0.1)
    other = world.node(reconnect=Reconnect(first=0.4, max_delay=0.4, random=lambda: 1.0))
    heard = subscribed(other)

    def fail(topic, missed):
        raise RuntimeError("a bug")

    other.subscribe("topic", print, fail)
    world.spin(lambda: settled(node, other))
    other._receiver.connection.abort()
    node.publish("topic", b"lost")
    world.spin(lambda: heard.events)
    assert heard.events == [1]
    world.spin(lambda: errors.seen)
    exc, callback, _ = errors.take()
    assert (str(exc), callback) == ("a bug", "on_gap of topic 'topic'")


def test_publishing_is_queued_while_the_broker_is_away_then_refused(world):
    node = world.node(max_queued=30, reconnect=QUICK)
    heard = subscribed(node)
    world.spin(lambda: settled(node))
    for link in list(node._open):
        link.connection.abort()
    world.spin(lambda: not node._open)
    assert node.state is BackplaneState.CONNECTING
    assert [node.publish("topic", b"%010d" % number) for number in range(4)] == [True, True, True, False]
    world.spin(lambda: len(heard.events) == 3)
    assert heard.events == [b"%010d" % number for number in range(3)]
    assert node.stats().refused == {"queue full": 1}


@pytest.mark.parametrize(
    ("kind", "expected"), [("h", [b"before", 1, b"after"]), ("t", [b"before", None, b"after"])]
)
def test_a_topic_that_the_broker_has_evicted_is_a_gap(world, kind, expected):
    node, other = world.node(), world.node(reconnect=Reconnect(first=0.2, max_delay=0.2))
    heard = subscribed(other)
    world.spin(lambda: settled(node, other))
    node.publish("topic", b"before")
    world.spin(lambda: heard.events)
    other._receiver.connection.abort()
    node.publish("topic", b"lost")
    node._commands.send(None, "DEL", node._key(kind, "topic"))
    node.publish("topic", b"after")
    world.spin(lambda: len(heard.events) == 3 and settled(node, other))
    assert heard.events == expected


def test_the_number_of_a_publisher_that_the_broker_has_evicted_costs_no_message(world):
    node = world.node(reconnect=QUICK)
    heard = subscribed(node)
    world.spin(lambda: settled(node))
    for number in range(10):
        node.publish("topic", b"%d" % number)
        if number == 4:
            node._commands.send(None, "DEL", node._key("p", node._outbox.publisher))
    world.spin(lambda: len(heard.events) == 10)
    assert heard.events == [b"%d" % number for number in range(10)]


def test_many_topics_are_read_a_few_at_a_time(world):
    node, heard, most = world.node(reconnect=QUICK), [], 0
    names = [f"topic {number}" for number in range(100)]
    for name in names:
        node.subscribe(name, lambda topic, data: heard.append(topic))
        node.publish(name, b"the first after it was subscribed")
    world.spin(lambda: settled(node))
    assert sorted(heard) == sorted(names)
    node._receiver.connection.abort()
    for name in names:
        node.publish(name, b"missed")

    def recovered():
        nonlocal most
        most = max(most, node._reads)
        return len(heard) == 200 and settled(node)

    world.spin(recovered)
    assert sorted(heard[100:]) == sorted(names)
    assert 0 < most <= 64
    assert node.stats().unknown_gaps == node.stats().missed == 0


def test_more_topics_than_in_one_subscribe_are_subscribed_again(world, monkeypatch):
    monkeypatch.setattr("reactor.backplane.redis._AT_ONCE", 3)
    node, heard = world.node(reconnect=QUICK), []
    subscriptions = [node.subscribe(f"{n}", lambda topic, data: heard.append(topic)) for n in range(10)]
    world.spin(lambda: settled(node))
    node._receiver.connection.abort()
    world.spin(lambda: node._receiver is None)
    world.spin(lambda: node._receiver)
    subscriptions[9].cancel()  # before it is its turn
    subscriptions[8].cancel()
    node.subscribe("8", lambda topic, data: heard.append(topic))
    world.spin(lambda: settled(node))
    node._renew()
    for number in range(10):
        node.publish(f"{number}", b"")
    world.spin(lambda: len(heard) == 9 and not node.stats().queued)
    assert heard == [f"{number}" for number in range(9)]


def test_a_topic_of_many_is_unsubscribed_when_nobody_wants_it(world):
    node = world.node()
    subscriptions = [node.subscribe(f"topic {number}", print) for number in range(20) for _ in range(3)]
    world.spin(lambda: settled(node))
    assert node.stats().topics == 20
    assert node.stats().subscriptions == 60
    for subscription in subscriptions:
        subscription.cancel()
    assert node.stats().topics == 0
    heard = subscribed(node)
    node.publish("topic", b"1")
    world.spin(lambda: heard.events)
    if world.broker is not None:
        assert [key for key, who in world.broker.channels.items() if who and b":t:" in key] == [
            f"{world.prefix}:0:t:topic".encode()
        ]


def test_what_others_publish_on_a_channel_is_ignored_and_logged(world, caplog):
    node = world.node()
    heard = subscribed(node)
    world.spin(lambda: settled(node))
    node._commands.send(None, "PUBLISH", f"{world.prefix}:0:t:topic", "garbage")
    node._commands.send(None, "PUBLISH", f"{world.prefix}:0:t:topic", "epoch no-number data")
    node.publish("topic", b"1")
    world.spin(lambda: heard.events)
    assert heard.events == [b"1"]
    assert "somebody else" in caplog.text


def test_publishes_of_a_tick_leave_in_one_write(world):
    node = world.node(deadline=100, presence_ttl=200)  # no heartbeat meanwhile
    world.spin(lambda: settled(node) and not node._commands.link._replies)
    writes = []
    sock = node._commands.link.connection.get_extra_info("socket")
    before = world.reactor.stats().bytes_sent

    def burst():
        for number in range(10):
            node.publish("topic", b"%d" % number)
        writes.append(world.reactor.stats().bytes_sent - before)

    world.reactor.call_soon(burst)
    world.spin(lambda: not len(node._outbox) and writes)
    assert writes == [0]  # nothing left before the end of the tick
    assert sock is node._commands.link.connection.get_extra_info("socket")


# Faults that only the broker in Python has on command


@pytest.fixture
def scripted(reactor, tmp_path):
    broker = Broker(reactor, f"unix:{tmp_path}/broker.sock")
    yield broker
    broker.stop()


@pytest.fixture
def make_node(scripted, make_node, tmp_path):
    return partial(make_node, f"unix://{tmp_path}/broker.sock")


def once(command, action):
    """A fault that does `action(session, command)` for the first command of that name."""
    left = [command]

    def fault(session, given):
        if left and given[0] == command:
            left.clear()
            return action(session, given)
        return None

    return fault


def spin(reactor, until):
    from tests.helpers import spin  # noqa: PLC0415

    spin(reactor, until, wait=0.01)


def test_a_message_whose_acknowledgement_was_lost_is_not_doubled(reactor, scripted, make_node):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))

    def execute_and_cut(session, command):
        scripted.fault = lambda session, command: None
        scripted.do_evalsha(session, *command[1:])
        session.connection.abort()

    scripted.fault = once(b"EVALSHA", execute_and_cut)
    sent = [b"%d" % number for number in range(10)]
    for data in sent:
        node.publish("topic", data)
    spin(reactor, lambda: len(heard.events) == 10 and settled(node))
    assert heard.events == sent
    assert node.stats().acknowledged == 10


def test_half_a_reply_is_no_reply(reactor, scripted, make_node):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))

    def half(session, command):
        session.connection.write(b"*5\r\n$3\r\nab")
        session.connection.close()
        return b"nil"

    scripted.fault = once(b"EVALSHA", half)
    node.publish("topic", b"1")
    spin(reactor, lambda: heard.events and settled(node))
    assert heard.events == [b"1"]


@pytest.mark.parametrize("error", ["OOM command not allowed", "READONLY it is a replica", "MISCONF disk"])
def test_an_error_of_the_broker_delays_messages_and_keeps_their_order(
    reactor, scripted, make_node, caplog, error
):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    refused = []

    def refuse(session, command):
        if command[0] == b"EVALSHA" and len(refused) < 3:
            refused.append(command)
            return Error(error)
        return None

    scripted.fault = refuse
    for number in range(10):
        node.publish("topic", b"%d" % number)
    spin(reactor, lambda: len(heard.events) == 10)
    assert heard.events == [b"%d" % number for number in range(10)]
    assert error in caplog.text


def test_scripts_that_were_flushed_are_loaded_again(reactor, scripted, make_node):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    scripted.loaded.clear()
    node.publish("topic", b"1")
    spin(reactor, lambda: heard.events)
    assert heard.events == [b"1"]


def test_a_durable_broker_that_is_killed_loses_nothing(reactor, scripted, make_node):
    node, other = make_node(), make_node()
    heard = subscribed(other)
    spin(reactor, lambda: settled(node, other))
    node.publish("topic", b"before")
    spin(reactor, lambda: heard.events)
    scripted.restart()
    node.publish("topic", b"after")
    spin(reactor, lambda: len(heard.events) == 2 and settled(node, other))
    assert heard.events == [b"before", b"after"]
    assert other.stats().unknown_gaps == 0


def test_a_broker_that_may_have_lost_something_is_a_gap_in_its_place(reactor, scripted, make_node):
    scripted.options["appendfsync"] = "everysec"
    node, other = make_node(), make_node()
    heard = subscribed(other)
    spin(reactor, lambda: settled(node, other))
    node.publish("topic", b"before")
    spin(reactor, lambda: heard.events)
    scripted.restart()
    node.publish("topic", b"after")
    spin(reactor, lambda: len(heard.events) == 3 and settled(node, other))
    assert heard.events == [b"before", None, b"after"]


def test_a_broker_that_has_lost_what_was_received_is_a_gap(reactor, scripted, make_node):
    scripted.options["config"] = "denied"  # it does not say how durable it is
    node, other = make_node(), make_node()
    heard = subscribed(other)
    spin(reactor, lambda: settled(node, other))
    saved = scripted.save()
    for number in range(3):
        node.publish("topic", b"%d" % number)
    spin(reactor, lambda: len(heard.events) == 3 and settled(node, other))
    scripted.restart(saved)
    node.publish("topic", b"after")
    spin(reactor, lambda: len(heard.events) == 5 and settled(node, other))
    assert heard.events == [b"0", b"1", b"2", None, b"after"]


@pytest.mark.parametrize("durable", ["always", "no"])
def test_a_broker_without_its_data_is_an_unknown_gap_and_nothing_after_it_is_missing(
    reactor, scripted, make_node, durable
):
    scripted.options["appendfsync"] = durable
    node, other = make_node(), make_node()
    heard = subscribed(other)
    spin(reactor, lambda: settled(node, other))
    node.publish("topic", b"before")
    spin(reactor, lambda: heard.events)
    scripted.stop()
    scripted.flush()
    spin(reactor, lambda: not node._open)
    node.publish("topic", b"1")
    scripted.start()
    node.publish("topic", b"2")
    spin(reactor, lambda: len(heard.events) == 4 and settled(node, other))
    assert heard.events == [b"before", None, b"1", b"2"]


def test_data_that_is_flushed_under_a_live_connection_is_noticed_with_the_next_message(
    reactor, scripted, make_node
):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    node.publish("topic", b"before")
    spin(reactor, lambda: heard.events)
    scripted.flush()
    node.publish("topic", b"1")
    node.publish("topic", b"2")
    spin(reactor, lambda: len(heard.events) == 4)
    assert heard.events == [b"before", None, b"1", b"2"]


def test_a_message_that_never_arrives_live_is_read_when_the_next_one_comes(reactor, scripted, make_node):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    post, scripted.post = scripted.post, lambda channel, payload: 0
    node.publish("topic", b"1")
    spin(reactor, lambda: settled(node))
    scripted.post = post
    node.publish("topic", b"2")
    spin(reactor, lambda: len(heard.events) == 2)
    assert heard.events == [b"1", b"2"]
    assert node.stats().recovered == 2


def test_a_broker_that_lies_about_offsets_is_found_out(reactor, scripted, make_node):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    (topic,) = scripted.data.topics.values()
    topic["offset"] += 5  # messages that were never there
    node.publish("topic", b"1")
    spin(reactor, lambda: len(heard.events) == 2)
    assert heard.events == [5, b"1"]
    topic["offset"] -= 3
    node._receiver.connection.abort()
    spin(reactor, lambda: len(heard.events) == 3 and settled(node))
    node.publish("topic", b"2")
    spin(reactor, lambda: len(heard.events) == 4)
    assert heard.events[2:] == [None, b"2"]


def test_live_messages_come_twice_and_are_passed_on_once(reactor, scripted, make_node):
    node = make_node()
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    post = scripted.post
    scripted.post = lambda channel, payload: post(channel, payload) + post(channel, payload)
    for number in range(3):
        node.publish("topic", b"%d" % number)
    spin(reactor, lambda: len(heard.events) == 3 and node.stats().duplicates == 3)
    assert heard.events == [b"0", b"1", b"2"]


def test_a_second_loss_while_the_history_is_read_is_read_too(reactor, scripted, make_node):
    node, other = make_node(), make_node()
    heard = subscribed(other)
    spin(reactor, lambda: settled(node, other))
    post, lost = scripted.post, [b"0", b"5"]

    def lose(channel, payload):
        return 0 if payload.rpartition(b" ")[2] in lost else post(channel, payload)

    scripted.post = lose
    other._commands.link.connection.pause_reading()  # so that the answer is of the time before the second
    for number in range(5):
        node.publish("topic", b"%d" % number)
    spin(reactor, lambda: settled(node) and next(iter(other._topics.values())).reading)
    reads = scripted.commands.count(b"EVALSHA")
    spin(reactor, lambda: scripted.commands.count(b"EVALSHA") == reads)
    for number in range(5, 10):
        node.publish("topic", b"%d" % number)
    spin(reactor, lambda: settled(node))
    other._commands.link.connection.resume_reading()
    spin(reactor, lambda: len(heard.events) == 10 and settled(node, other))
    assert heard.events == [b"%d" % number for number in range(10)]


def test_more_live_messages_than_are_kept_are_read_from_the_history(
    reactor, scripted, make_node, monkeypatch
):
    monkeypatch.setattr("reactor.backplane.topic.KEPT", 3)
    node, other = make_node(), make_node()
    heard = subscribed(other)
    spin(reactor, lambda: settled(node, other))
    held = []

    def hold(session, command):
        held.append((session, command))
        return "hold"

    post = scripted.post
    scripted.post = lambda channel, payload: 0  # one is lost, so that the history is read
    node.publish("topic", b"0")
    spin(reactor, lambda: settled(node))
    scripted.post = post
    other._commands.link.connection.pause_reading()  # so that the answer comes late
    for number in range(1, 10):
        node.publish("topic", b"%d" % number)
    spin(reactor, lambda: other._topics and next(iter(other._topics.values())).again)
    other._commands.link.connection.resume_reading()
    spin(reactor, lambda: len(heard.events) == 10 and settled(node, other))
    assert heard.events == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_messages_that_a_closing_backplane_can_t_deliver_are_counted(
    reactor, scripted, make_node, caplog, size
):
    node = make_node(deadline=0.1)
    spin(reactor, lambda: up(node))
    scripted.hang()
    assert node.publish("topic", bytes(size))
    node.close()
    spin(reactor, lambda: node.stats().unsent)
    assert "1 messages may not have arrived" in caplog.text
    assert not node.stats().queued
    scripted.resume()


def test_messages_on_their_way_at_the_reactor_s_end_are_counted(shared_redis, caplog):
    with Reactor() as reactor:
        node = RedisBackplane(reactor, shared_redis.url, prefix="end")
        spin(reactor, lambda: up(node))
        node.publish("topic", b"1")
    assert node.stats().unsent == 1
    assert "1 messages may not have arrived: the reactor was closed" in caplog.text


@pytest.mark.parametrize("behind", [0, 3600])
@pytest.mark.parametrize("meanwhile", [0, 2, 3, 4])
def test_data_of_an_older_backup_is_a_gap_and_messages_with_its_offsets_are_new(
    network, far, meanwhile, behind
):
    broker, make = far
    node, other = make(), make()
    own, heard = subscribed(node), subscribed(other)
    network.advance(1)
    node.publish("topic", b"0")
    network.advance(1)
    saved = broker.save()
    (topic,) = broker.data.topics.values()
    topic["time"] += behind * 1000  # seconds by which the clock of the other machine is behind
    for number in range(1, 4):
        node.publish("topic", b"%d" % number)
    network.advance(1)
    network.partition("10.0.0.1", "10.0.0.3")
    broker.restart(saved)
    network.advance(8)
    published = [b"new %d" % number for number in range(meanwhile)]
    for data in published:
        node.publish("topic", data)
    network.advance(1)
    network.heal()
    network.advance(5)
    node.publish("topic", b"after")
    network.advance(1)
    known = [b"0", b"1", b"2", b"3", None]
    assert own.events == [*known, *published, b"after"]
    assert heard.events == [*known, *([] if behind else published), b"after"]  # the gap tells of them


def test_heartbeats_and_questions_do_not_wait_behind_all_that_is_queued(network, far):
    broker, make = far
    node = make()
    heard, answers = subscribed(node), []
    network.advance(2)
    broker.stop()
    network.advance(1)
    published = [b"%d" % number for number in range(3000)]
    for data in published:
        node.publish("topic", data)
    executed = []

    def execute_slowly(session, command):
        executed.append(command[0])
        if command[0] == b"EVALSHA" and len(executed) % 25 == 0 and not broker.hung:
            broker.hang()
            broker.reactor.call_later(0.01, broker.resume)

    broker.fault = execute_slowly  # 2,500 messages a second
    broker.start()
    while not up(node):
        network.advance(0.1)
    asked = len(executed)
    assert asked < 2700
    node.members("group", answers.append)
    while not answers:
        network.advance(0.1)
    assert len(executed) - asked < 1500
    while node.stats().queued:
        network.advance(1)
        assert up(node)
    network.advance(1)
    assert heard.events == published
    assert node.stats().deaf == 0


def test_close_waits_for_the_acknowledgements(world):
    node = world.node()
    for _ in range(100):
        node.publish("topic", b"x")
    node.close()
    world.spin(lambda: not world.reactor.connections())
    assert node.stats().acknowledged == 100
    assert node.stats().unsent == 0


# In simulated time


def test_a_wrong_password_is_logged_without_the_password(network, caplog):
    broker = Broker(network.reactor("10.0.0.1"), "10.0.0.1:6379", password="secret")
    wrong = RedisBackplane(network.reactor("10.0.0.2"), "redis://:guess@10.0.0.1")
    none = RedisBackplane(network.reactor("10.0.0.3"), "redis://10.0.0.1")
    right = RedisBackplane(network.reactor("10.0.0.4"), "redis://user:secret@10.0.0.1/3")
    network.advance(10)
    assert [node.state for node in (wrong, none, right)] == [
        BackplaneState.DEAF, BackplaneState.DEAF, BackplaneState.UP,
    ]  # fmt: skip
    assert "WRONGPASS" in caplog.text
    assert "NOAUTH" in caplog.text
    assert "guess" not in caplog.text
    assert "guess" not in repr(wrong)
    assert b"SELECT" in broker.commands


def test_a_broker_that_refuses_to_write_does_not_count_as_up(network, far, caplog):
    broker, make = far
    node = make()
    network.advance(2)
    assert up(node)

    def refuse(session, command):
        return Error("OOM command not allowed") if command[0] in {b"SET", b"EVALSHA"} else None

    broker.fault = refuse
    assert seconds_until(network, lambda: node.state is BackplaneState.DEAF) <= 6
    for _ in range(100):
        network.advance(0.1)
        assert not up(node)
    assert "OOM" in caplog.text
    broker.fault = lambda session, command: None
    assert seconds_until(network, lambda: up(node)) <= 2


@pytest.mark.parametrize(
    ("error", "commands"),
    [
        ("LOADING Redis is loading the dataset in memory", None),
        ("NOPERM this user has no permissions to run the 'set' command", [b"SET"]),
        ("NOPERM this user has no permissions to access one of the channels", [b"SUBSCRIBE"]),
        ("READONLY You can't write against a read only replica.", [b"SET", b"EVALSHA"]),
        ("MISCONF Errors writing to the AOF file: No space left on device", [b"SET", b"EVALSHA"]),
    ],
)
def test_what_is_refused_for_long_is_logged_once_and_asked_for_with_delays(
    network, far, caplog, error, commands
):
    broker, make = far
    node = make()
    network.advance(5)
    broker.fault = lambda session, command: Error(error) if command[0] in (commands or command) else None
    if commands is None:
        broker.restart()
    else:
        network.reset("10.0.0.1", "10.0.0.2")
    broker.commands.clear()
    network.advance(60)
    assert node.state is BackplaneState.DEAF
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert sum(error in text for text in warned) == 1
    assert ("what it needs is: resetchannels ~reactor:0:*" in "".join(warned)) == ("NOPERM" in error)
    assert [each.levelname for each in caplog.records if "is deaf" in each.getMessage()] == ["ERROR"]
    assert broker.commands.count(b"PING") < 240  # two connections, each at most twice a second
    broker.fault = lambda session, command: None
    assert seconds_until(network, lambda: up(node)) <= 2


def test_an_old_broker_is_refused(network, caplog):
    Broker(network.reactor("10.0.0.1"), "10.0.0.1:6379", version="6.0.16")
    node = RedisBackplane(network.reactor("10.0.0.2"), "redis://10.0.0.1")
    network.advance(10)
    assert node.state is BackplaneState.DEAF
    assert "Redis 6.0.16; it must be 6.2 or newer" in caplog.text


def test_what_is_no_broker_is_not_believed(network, caplog):
    from reactor.apps.echo import Echo  # noqa: PLC0415

    network.reactor("10.0.0.1").listen("10.0.0.1:6379", Echo)
    node = RedisBackplane(network.reactor("10.0.0.2"), "redis://10.0.0.1")
    network.advance(10)
    assert node.state is BackplaneState.DEAF


def test_topics_are_renewed_so_that_the_broker_does_not_forget_them(network, far):
    broker, make = far
    node, silent = make(deadline=2000, presence_ttl=3000), []
    heard = subscribed(node)
    node.take("group", "ann", silent.append)
    network.advance(1)
    for _ in range(30):
        broker.commands.clear()
        network.advance(3 * 3600 + 10)
    network.advance(1)
    node.publish("topic", b"1")
    network.advance(1)
    assert heard.events == [b"1"]
    assert silent == [True]


def test_a_drain_keeps_the_connections_until_the_others_are_gone(network, far):
    from reactor.testing import Recorder  # noqa: PLC0415

    _, make = far
    node = make()
    reactor = node._reactor

    class Busy(Recorder):
        def draining(self):
            return True

    reactor.listen("10.0.0.2:80", Busy)
    client = network.reactor("10.0.0.200")
    client.connect("10.0.0.2:80", Recorder)
    network.advance(3)
    done = []
    reactor.drain(60, done.append)
    network.advance(5)
    assert up(node)
    (busy,) = [each for each in reactor.connections() if isinstance(each.get_protocol(), Busy)]
    busy.close()
    network.advance(5)
    assert node.state is BackplaneState.CLOSED
    (report,) = done
    assert report.aborted == 0


# Invalid arguments, and what is not installed


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"url": "http://127.0.0.1"}, AddressError),
        ({"url": 5}, TypeError),
        ({"prefix": b"x"}, TypeError),
        ({"history": 0}, ValueError),
        ({"history_age": -1}, ValueError),
        ({"history_age": float("inf")}, ValueError),
        ({"presence_ttl": float("inf")}, ValueError),
        ({"deadline": 10}, ValueError),
        ({"prefix": "\udcff"}, ValueError),
        ({"reconnect": 1}, TypeError),
    ],
)
def test_invalid_options_are_refused(options, error):
    with Reactor() as reactor, pytest.raises(error):
        RedisBackplane(reactor, **{"url": "redis://127.0.0.1", **options})


def test_invalid_address_leaves_nothing_to_be_closed(errors):
    with Reactor(on_error=errors) as reactor:
        with pytest.raises(AddressError):
            RedisBackplane(reactor, "redis://a b")
        reactor.run_once()
    assert not errors.seen


def test_tls_has_a_context_by_default():
    with Reactor() as reactor, RedisBackplane(reactor, "rediss://127.0.0.1:1/2") as node:
        assert repr(node) == "<RedisBackplane 127.0.0.1:1/2>"
        assert node.state is BackplaneState.CONNECTING


def test_missing_extra_is_named():
    program = (
        "import sys; sys.modules['hiredis'] = None\n"
        "import reactor.backplane\n"
        "assert not hasattr(reactor.backplane, 'Nothing')\n"
        "try: reactor.backplane.RedisBackplane\n"
        "except ImportError as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("RedisBackplane needs hiredis: pip install 'selectors-reactor[redis]'")


def test_import_of_the_package_does_not_import_hiredis():
    program = "import sys, reactor.backplane; print('hiredis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_reading_the_last_messages_is_answered_with_none_while_the_broker_is_away(reactor, tmp_path):
    answers = []
    with RedisBackplane(reactor, f"unix://{tmp_path}/nothing.sock") as backplane:
        backplane.read_last("topic", 3, answers.append)
        assert answers == []
        spin(reactor, lambda: answers)
    assert answers == [None]
