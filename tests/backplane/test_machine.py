"""Nodes and a broker on a network in memory: any interleaving of use and of loss, against the broker's log.

Whatever happens, a subscriber gets every message in order and once, or is told how many are missing, or,
where the broker may have lost some, that some are. A hundred nodes do the same.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import partial
from itertools import count
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import Reconnect
from reactor.backplane import BackplaneState, RedisBackplane
from reactor.testing import MemoryNetwork
from tests.backplane.broker import Broker, Error

BROKER = "10.0.0.1"
TOPICS = ("a", "b")


class Bug(Exception):
    """What a callback of the program raises."""


def _report(exc, callback, subject):
    assert isinstance(exc, Bug), exc


@attrs.define(eq=False)
class Reader:
    """A subscriber, and what it was given. since: messages of its topic in the log when it was made.

    It is 0 if the node has another one of the topic, which may be behind: both get the same from then on.
    """

    node: Node
    topic: str
    since: int
    events: list = attrs.field(factory=list)
    subscription: object = None
    action: object = None
    ended: bool = False  # it gets nothing any more

    def message(self, topic, data):
        self.events.append(data)
        self.act()

    def gap(self, topic, missed):
        self.events.append(missed)
        self.act()

    def act(self):
        """Do once, from within a message or a gap, what was put off until then."""
        action, self.action = self.action, None
        if action is not None:
            action()


@attrs.define(eq=False)
class Node:
    """A process with a backplane. accepted: what it has published, by topic. names: its memberships."""

    backplane: RedisBackplane
    address: str
    accepted: dict = attrs.field(factory=lambda: {topic: [] for topic in TOPICS})
    readers: list = attrs.field(factory=list)
    names: list = attrs.field(factory=list)


class World:
    """A broker with its nodes, and the check of what all have got."""

    def __init__(self, nodes, seed, *, history=8, latency=(0.001, 0.05), choppy=0.2, **options):
        self.network = MemoryNetwork(seed=seed, latency=latency, choppy=choppy)
        self.broker = Broker(self.network.reactor(BROKER), f"{BROKER}:6379", **options)
        self.lossless = True  # as far as the nodes can know
        self.saved = None  # what the broker has on its disk
        self.saved_logs = {}
        self.undone = set()  # messages that it had
        self.numbers = count()
        self.history = history
        self.addresses = count()
        self.nodes = [self.node() for _ in range(nodes)]
        self.ended = []  # nodes that were closed, or have died

    def node(self):
        index = next(self.addresses)
        address = f"10.0.{1 + index // 200}.{1 + index % 200}"
        random = Random(index).random
        backplane = RedisBackplane(
            self.network.reactor(address, on_error=_report), f"redis://{BROKER}", history=self.history,
            reconnect=Reconnect(first=0.1, max_delay=1.0, random=random),
        )  # fmt: skip
        return Node(backplane, address)

    def log(self, topic):
        return self.broker.logs.get(f"reactor:0:t:{topic}".encode(), [])

    def subscribe(self, node, topic):
        joins = any(each.topic == topic for each in node.readers)
        reader = Reader(node, topic, 0 if joins else len(self.log(topic)))
        reader.subscription = node.backplane.subscribe(topic, reader.message, reader.gap)
        node.readers.append(reader)

    def end(self, node, end):
        """End a node by `end`; a new one comes."""
        if node in self.nodes:
            end()
            for reader in node.readers:
                reader.ended = True
            self.ended.append(node)
            self.nodes[self.nodes.index(node)] = self.node()

    def go_back(self):
        """Undo what the broker did, without a restart: for a moment another one was the primary.

        Who is connected, and has got a message that is undone, must be told; for others it was never there.
        """
        self.network.advance(0.01)
        if self.saved is not None and self.settled():
            self.lossless = False
            self.undone.update(*self.broker.logs.values())
            self.broker.data, self.broker.logs = copy.deepcopy((self.saved, self.saved_logs))
            for node in self.nodes:
                for reader in node.readers:
                    reader.since = min(reader.since, len(self.log(reader.topic)))
            for topic in TOPICS:
                self.publish(self.nodes[0], topic)
            self.network.advance(5)

    def resubscribe(self, node, reader):
        if reader in node.readers:
            node.readers.remove(reader)
            reader.subscription.cancel()
            self.subscribe(node, reader.topic)

    def fail(self):
        raise Bug

    def publish(self, node, topic):
        data = b"%d" % next(self.numbers)
        if node.backplane.publish(topic, data):
            node.accepted[topic].append(data)

    def drop_reply(self, session, command):
        """The broker executes the next script, and its answer is lost with the connection."""
        if command[0] != b"EVALSHA":
            return None
        self.broker.fault = lambda session, command: None
        with suppress(Error):
            self.broker.do_evalsha(session, *command[1:])
        session.connection.abort()
        return b"nil"

    def refuse(self, session, command):
        """The broker refuses the next script."""
        if command[0] != b"EVALSHA":
            return None
        self.broker.fault = lambda session, command: None
        return Error("OOM command not allowed")

    def heal(self, seconds=20.0):
        self.network.heal()
        self.broker.fault = lambda session, command: None
        self.broker.resume()
        self.network.advance(seconds)
        for node in self.nodes:
            for reader in node.readers:
                reader.action = None

    def settled(self):
        return all(
            node.backplane.state is BackplaneState.UP
            and not node.backplane.stats().queued
            and all(topic.live for topic in node.backplane._topics.values())
            for node in self.nodes
        )

    def check(self, seconds=20.0):
        self.heal(seconds)
        assert self.settled()
        for topic in TOPICS:
            for node in self.nodes:
                self.publish(node, topic)  # so that each reader has one message at least
        self.network.advance(5)
        assert self.settled()
        for node in (*self.nodes, *self.ended):
            unsent = 0
            for topic in TOPICS:
                mine = node.accepted[topic]
                in_log = [data for data in self.log(topic) if data in set(mine)]
                unsent += len(set(mine) - set(in_log) - self.undone)
                if self.lossless:
                    assert in_log == mine[: len(in_log)]  # each once, in order
            counted = node.backplane.stats().unsent
            assert unsent <= counted if node in self.ended else unsent == counted == 0
            for reader in node.readers:
                self.check_reader(reader)

    def check_reader(self, reader):
        """Follow its events in the log, where what was lost and sent again stands twice."""
        log, positions = self.log(reader.topic), None
        places = {}
        for index, data in enumerate(log):
            places.setdefault(data, set()).add(index)
        for event in reader.events:
            if event is None:
                assert not self.lossless, "an unknown gap, and nothing can be missing"
                positions = None
            elif isinstance(event, int):
                assert event > 0
                positions = positions and {position + event for position in positions}
            else:
                here = places.get(event, set())
                here = here if positions is None else here & positions
                assert here or event in self.undone, (event, reader.events, log)
                positions = {position + 1 for position in here}
        assert reader.ended or len(log) in positions, (reader.events, log)
        first = next(iter(reader.events), None)
        if first in places:  # it began where it was made, or later: when the broker knew of it
            assert max(places[first]) >= reader.since

    def close(self):
        for node in self.nodes:
            node.backplane.close()
        self.network.advance(5)
        self.broker.stop()
        self.network.advance(5)
        self.network.check()
        self.network.close()


#: What can happen, with how often. "restart" is a kill with everything kept, "lose" one that loses data.
STEPS = {
    "publish": 30, "burst": 8, "advance 0.01": 12, "advance 0.05": 12, "advance 0.3": 8, "advance 2": 3,
    "advance 7": 1, "subscribe": 6, "unsubscribe": 5, "resubscribe": 4, "reset": 8, "partition": 3,
    "heal": 4, "hang": 2, "resume": 4, "kill clients": 2, "drop a reply": 4, "refuse": 1, "restart": 2,
    "die": 1, "close": 1, "then publish": 3, "then resubscribe": 3, "then close": 1, "then raise": 3,
    "once more": 3,
}  # fmt: skip
LOSSES = {"remember": 4, "lose": 3, "go back": 2, "evict h": 1, "evict t": 1, "evict p": 1, "flush": 1}


def do(world, step, node, topic):  # noqa: C901 - a table of steps
    """Do one step."""
    name, _, seconds = step.partition(" ")
    broker = world.broker
    match name:
        case "publish":
            world.publish(node, topic)
        case "burst":
            for _ in range(12):
                world.publish(node, topic)
        case "advance":
            world.network.advance(float(seconds))
        case "subscribe":
            if len(node.readers) < 6:
                world.subscribe(node, topic)
        case "unsubscribe" | "resubscribe" if node.readers:
            reader = node.readers.pop(0)
            reader.subscription.cancel()
            if name == "resubscribe":
                world.subscribe(node, reader.topic)
        case "reset":
            world.network.reset(BROKER, node.address)
        case "partition":
            world.network.partition(BROKER, node.address)
        case "heal":
            world.network.heal()
        case "hang":
            broker.hang()
        case "resume":
            broker.resume()
        case "kill":
            for session in list(broker.sessions):
                session.connection.abort()
        case "drop":
            broker.fault = world.drop_reply
        case "refuse":
            broker.fault = world.refuse
        case "restart":
            broker.restart()
            world.lossless = world.lossless and broker.options["appendfsync"] == "always"
        case "remember":
            world.saved, world.saved_logs = broker.save(), copy.deepcopy(broker.logs)
        case "lose":
            world.lossless = False
            broker.restart(world.saved)
        case "flush":
            world.lossless = False
            broker.flush()
        case "go":
            world.go_back()
        case "evict":
            world.lossless = False
            for key in [key for key in broker.all_keys() if f":{seconds}:".encode() in key]:
                broker.forget(key)
        case "die":
            world.end(node, node.backplane._reactor.close)
        case "close":
            world.end(node, node.backplane.close)
        case "once":  # all within a tick
            world.subscribe(node, topic)
            node.readers.pop().subscription.cancel()
            world.publish(node, topic)
            world.subscribe(node, topic)
        case "then" if node.readers:  # from within the next message or gap
            reader = node.readers[0]
            reader.action = {
                "publish": partial(world.publish, node, topic),
                "resubscribe": partial(world.resubscribe, node, reader),
                "close": partial(world.end, node, node.backplane.close),
                "raise": world.fail,
            }[seconds]


def steps(chances, **sizes):
    weighted = [step for step, weight in chances.items() for _ in range(weight)]
    one = st.tuples(st.sampled_from(weighted), st.integers(0, 2), st.sampled_from(TOPICS))
    return st.lists(one, **sizes)


def run(seed, given_steps, **options):
    world = World(3, seed, **options)
    try:
        for node in world.nodes:
            world.subscribe(node, "a")
        for step, index, topic in given_steps:
            do(world, step, world.nodes[index], topic)
        world.check()
    finally:
        world.close()


@settings(max_examples=8)
@given(st.integers(0, 10_000), steps(STEPS, min_size=20, max_size=60))
def test_nothing_is_missing_unless_it_is_told(seed, given_steps):
    run(seed, given_steps)


@settings(max_examples=8)
@given(st.integers(0, 10_000), steps({**STEPS, **LOSSES}, min_size=20, max_size=60))
def test_nothing_is_missing_unless_it_is_told_though_the_broker_loses_data(seed, given_steps):
    run(seed, given_steps, appendfsync="everysec")


NAMES = {
    "take": 20, "give back": 10, "hand over": 6, "advance 0.05": 15, "advance 0.5": 10, "advance 7": 2,
    "reset": 6, "partition": 3, "heal": 5, "hang": 1, "resume": 4, "kill clients": 2, "drop a reply": 4,
    "restart": 1, "lose": 1, "remember": 1, "flush": 1,
}  # fmt: skip


def do_with_name(world, step, node, name):
    """Take a name, give one back or hand one over, or do a step as above."""
    held = [each for each in node.names if each.held]
    if step == "take":
        node.names.append(node.backplane.take("group", name, lambda taken: None))
    elif step == "give back" and held:
        held[0].give_back()
    elif step == "hand over" and held:
        token = held[0].hand_over()
        other = world.nodes[(world.nodes.index(node) + 1) % len(world.nodes)]
        other.names.append(other.backplane.take("group", held[0].name, lambda taken: None, token=token))
    else:
        do(world, step, node, "a")


@settings(max_examples=8)
@given(st.integers(0, 10_000), steps(NAMES, min_size=20, max_size=60))
def test_a_name_is_of_one_node_and_all_know_it(seed, given_steps):
    run_with_names(seed, given_steps)


def run_with_names(seed, given_steps):
    world, answers = World(3, seed), []
    try:
        for step, index, name in given_steps:
            do_with_name(world, step, world.nodes[index], name)
        world.heal(30)  # longer than the names of the dead are kept
        held = [each for node in world.nodes for each in node.names if each.held]
        assert all(each.held is not None for node in world.nodes for each in node.names)
        for node in world.nodes:
            node.backplane.members("group", answers.append)
        world.network.advance(2)
        assert answers == [sorted(each.name for each in held)] * 3
        assert len({each.name for each in held}) == len(held)
    finally:
        world.close()


def random_steps(random, chances, number):
    names = random.choices(list(chances), list(chances.values()), k=number)
    return [(name, random.randrange(3), random.choice(TOPICS)) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_long_runs(seed):
    random = Random(seed)
    run(seed, random_steps(random, STEPS, 500))
    run(seed, random_steps(random, {**STEPS, **LOSSES}, 500), appendfsync="everysec")
    run_with_names(seed, random_steps(random, NAMES, 300))


@pytest.mark.slow
def test_a_hundred_nodes_with_two_topics_each_get_everything():
    """What the README says of the broker's load is counted here, then a tenth of the nodes is cut off."""
    world = World(100, 1, history=1000, latency=(0.01, 0.01), choppy=0.0)
    try:
        for node in world.nodes:
            for topic in (*TOPICS, *TOPICS):  # twice: one subscription serves both
                world.subscribe(node, topic)
        world.network.advance(2)
        assert world.settled()
        before = len(world.broker.commands)
        world.network.advance(5)
        idle = len(world.broker.commands) - before
        assert idle == 100 * 5 * 2  # a heartbeat and a sign of life for each process and second
        assert len(world.broker.sessions) == 200
        channels = {key: len(sessions) for key, sessions in world.broker.channels.items()}
        assert [number for key, number in channels.items() if b":t:" in key] == [100, 100]
        for node in world.nodes:
            world.publish(node, "a")
        for node in world.nodes[::10]:
            world.network.partition(BROKER, node.address)
        for node in world.nodes:
            world.publish(node, "b")
        world.network.advance(5)
        deaf = [node for node in world.nodes if node.backplane.state is BackplaneState.DEAF]
        assert deaf == world.nodes[::10]
        world.broker.restart()
        world.check(3.0)
        received = [node.backplane.stats().received for node in world.nodes]
        assert received == [400] * 100
    finally:
        world.close()
