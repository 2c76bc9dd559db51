"""Whether messages pass: heartbeats, deafness in simulated time, and what is logged of it."""

import logging

import pytest

from reactor.backplane import BackplaneState, RedisBackplane
from reactor.backplane.health import BEATS, Health
from reactor.backplane.interface import Counts
from reactor.loop.log import LimitedLog
from reactor.testing import ManualClock
from tests.backplane.broker import Error
from tests.backplane.nodes import seconds_until, up
from tests.backplane.test_interface import subscribed


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def health(clock):
    log = LimitedLog(lambda delay, callback, *args: None)
    return Health("<node>", b"ear", 4.0, clock, Counts(), log)


def test_it_is_up_when_a_heartbeat_comes_back_and_messages_can_be_sent(health, clock):
    assert (health.state, health.heard) == (BackplaneState.CONNECTING, None)
    health.hear(up=False)
    assert (health.state, health.heard) == (BackplaneState.CONNECTING, 0)
    health.hear(up=True)
    clock.advance(1)
    assert (health.state, health.heard) == (BackplaneState.UP, 1)
    health.went_down("the cable")
    assert health.state is BackplaneState.CONNECTING


def test_heartbeats_that_are_not_heard_within_the_deadline_are_an_error(health, caplog):
    health.hear(up=True)
    for _ in range(2):
        assert [health.beat() for _ in range(BEATS - 1)] == [None] * (BEATS - 1)
        health.hear(up=True)
    health.went_down("the cable")
    *before, problem = [health.beat() for _ in range(BEATS)]
    assert before == [None] * (BEATS - 1)
    assert str(problem) == "deaf: no heartbeat has come back within 4 s"
    assert health.state is BackplaneState.DEAF
    assert "<node> is deaf: no heartbeat has come back within 4 s; the cable" in caplog.text
    assert [bool(health.beat()) for _ in range(2 * (BEATS - 1))] == [*[False] * (BEATS - 2), True] * 2


def test_a_problem_is_logged_once_until_messages_pass(health, caplog):
    for _ in range(3):
        health.went_down("the cable")
        health.went_down("the switch")
    assert [record.message for record in caplog.records] == [
        "<node>: the cable; reconnecting",
        "<node>: the switch; reconnecting",
    ]


@pytest.mark.parametrize("fault", ["hang", "partition", "no heartbeats"])
def test_a_deaf_node_is_known_within_five_seconds_and_hears_again_within_two(network, far, caplog, fault):
    caplog.set_level(logging.INFO)
    broker, make = far
    node = make()
    heard = subscribed(node)
    network.advance(10.3)
    assert up(node)
    assert node.stats().heard <= 1.1
    post = broker.post
    if fault == "hang":
        broker.hang()
    elif fault == "partition":
        network.partition("10.0.0.1", "10.0.0.2")
    else:
        broker.post = lambda channel, payload: 0
    assert seconds_until(network, lambda: node.state is BackplaneState.DEAF) <= 5
    assert "deaf: no heartbeat has come back within 4 s" in caplog.text
    assert node.stats().deaf == 1
    assert node.publish("topic", b"queued")
    network.advance(60)
    assert node.state is BackplaneState.DEAF
    assert node.stats().deaf == 1
    broker.post = post
    broker.resume()
    network.heal()
    assert seconds_until(network, lambda: up(node)) <= 2
    network.advance(1)
    assert "messages pass" in caplog.text
    assert heard.events == [b"queued"]
    node.close()
    network.advance(1)
    network.check()


def test_a_node_without_a_broker_is_deaf_after_the_deadline(network, caplog):
    reactor = network.reactor("10.0.0.9")
    node = RedisBackplane(reactor, "redis://10.0.0.1")
    network.advance(3.5)
    assert node.state is BackplaneState.CONNECTING
    network.advance(2)
    assert node.state is BackplaneState.DEAF
    assert node.publish("topic", b"1")
    answers = []
    node.members("group", answers.append)
    network.advance(1)
    assert answers == [None]
    node.close()
    assert node.stats().unsent == 1
    assert "1 messages that wait for it are dropped" in caplog.text


def test_problems_that_differ_each_time_are_not_logged_without_end(network, far, caplog):
    broker, make = far
    make()
    broker.fault = lambda session, command: Error(f"ERR problem {len(broker.commands)}")
    network.advance(120)
    assert 10 <= caplog.text.count("problem") <= 25
