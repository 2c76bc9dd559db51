"""A redis-server that is killed, stopped, overrun, or asks for a password and TLS."""

import socket

import pytest

from reactor import Reconnect
from reactor.backplane import BackplaneState, RedisBackplane
from tests.backplane.test_interface import subscribed
from tests.backplane.test_redis import settled
from tests.helpers import spin

QUICK = Reconnect(first=0.01, max_delay=0.05)
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def make_node(reactor):
    made = []

    def make(url, **options):
        node = RedisBackplane(reactor, url, **{"reconnect": QUICK, **options})
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()


def numbers(first, last):
    return [b"%d" % number for number in range(first, last)]


def publish(node, first, last):
    for data in numbers(first, last):
        assert node.publish("topic", data)


def test_a_durable_server_that_is_killed_loses_nothing(reactor, make_server, make_node):
    server = make_server(*DURABLE)
    one, two = make_node(server.url), make_node(server.url)
    heard = subscribed(two)
    spin(reactor, lambda: settled(one, two))
    publish(one, 0, 100)
    spin(reactor, lambda: len(heard.events) > 10)
    for first in (100, 200):
        publish(one, first, first + 50)
        server.kill()
        publish(one, first + 50, first + 100)
        server.start()
    spin(reactor, lambda: len(heard.events) == 300 and settled(one, two))
    assert heard.events == numbers(0, 300)


def test_a_server_without_a_disk_that_is_killed_is_an_unknown_gap(reactor, make_server, make_node):
    server = make_server()
    one, two = make_node(server.url), make_node(server.url)
    heard = subscribed(two)
    spin(reactor, lambda: settled(one, two))
    publish(one, 0, 10)
    spin(reactor, lambda: len(heard.events) == 10 and settled(one, two))
    server.kill()
    publish(one, 10, 20)
    server.start()
    spin(reactor, lambda: len(heard.events) == 21 and settled(one, two))
    assert heard.events == [*numbers(0, 10), None, *numbers(10, 20)]


def test_a_server_that_is_stopped_makes_its_nodes_deaf_until_it_goes_on(reactor, make_server, make_node):
    server = make_server()
    node = make_node(server.url, deadline=0.4)
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    server.stop()
    spin(reactor, lambda: node.state is BackplaneState.DEAF)
    publish(node, 0, 10)
    server.go_on()
    spin(reactor, lambda: len(heard.events) == 10 and settled(node))
    assert heard.events == numbers(0, 10)
    assert node.stats().deaf == 1


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_connections_that_are_killed_are_made_again(reactor, make_server, make_node, kind):
    server = make_server()
    one, two = make_node(server.url), make_node(server.url)
    heard = subscribed(two)
    spin(reactor, lambda: settled(one, two))
    for first in range(0, 300, 100):
        publish(one, first, first + 50)
        server.call("CLIENT", "KILL", "TYPE", kind)
        publish(one, first + 50, first + 100)
        spin(reactor, lambda: settled(one, two))
    spin(reactor, lambda: len(heard.events) == 300)
    assert heard.events == numbers(0, 300)


def test_a_subscriber_that_is_cut_off_for_its_slowness_misses_nothing(reactor, make_server, make_node):
    server = make_server("--client-output-buffer-limit", "pubsub", "100000", "0", "0")
    one, two = make_node(server.url), make_node(server.url)
    heard = subscribed(two)
    spin(reactor, lambda: settled(one, two))
    slow = two._receiver.connection
    slow.pause_reading()
    sent = [b"%d" % number + bytes(10_000) for number in range(200)]
    for data in sent:
        one.publish("topic", data)
    spin(reactor, lambda: b" sub=2 " not in server.call("CLIENT", "LIST", "TYPE", "pubsub"))
    slow.resume_reading()
    spin(reactor, lambda: len(heard.events) == 200 and settled(one, two))
    assert heard.events == sent
    assert two.stats().recovered > 0


def test_a_user_with_few_rights_over_tls(reactor, make_redis, make_node, certificates, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    acl = tmp_path / "users.acl"
    acl.write_text(
        "user ann on >sec%ret ~reactor:* &reactor:* +@all -@admin +info\nuser default on nopass +@all\n"
    )
    make_redis(
        "--tls-port", str(port), "--tls-auth-clients", "no", "--aclfile", str(acl),
        "--tls-cert-file", certificates.file("server.pem"), "--tls-key-file", certificates.file("server.key"),
        "--tls-ca-cert-file", certificates.file("ca.pem"),
    )  # fmt: skip
    node = make_node(f"rediss://ann:sec%25ret@127.0.0.1:{port}", tls=certificates.client())
    heard = subscribed(node)
    publish(node, 0, 10)
    spin(reactor, lambda: len(heard.events) == 10)
    assert heard.events == numbers(0, 10)
    assert node._receiver.connection.get_extra_info("ssl_object") is not None
