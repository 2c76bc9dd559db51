"""A server that is killed, stopped, overrun, refuses, or asks for a password and TLS."""

import re
from pathlib import Path

import pytest

from reactor.backplane import BackplaneState
from tests.backplane.nodes import settled
from tests.backplane.test_interface import subscribed
from tests.helpers import spin

README = Path(__file__).parents[2] / "reactor" / "backplane" / "README.md"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


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


# Users and their rights


RULE = re.search(r"^user reactor on >PASSWORD (.*)$", README.read_text(encoding="utf-8"), re.MULTILINE)[1]
ADMIN = "user admin on >admin ~* &* +@all\nuser default off\n"


def with_users(folder, users):
    """Return the options of a server with these users, by name with their rules, and no default user."""
    lines = [f"user {name} on >sec%ret {rule}\n" for name, rule in users.items()]
    (folder / "users.acl").write_text("".join(lines) + ADMIN)
    return "--aclfile", str(folder / "users.acl")


def test_the_rights_of_the_readme_are_enough_over_tls_in_a_database(
    reactor, make_redis, make_node, certificates, port, tmp_path
):
    make_redis(
        "--tls-port", str(port), "--tls-auth-clients", "no", *with_users(tmp_path, {"ann": RULE}),
        "--tls-cert-file", certificates.file("server.pem"), "--tls-key-file", certificates.file("server.key"),
        "--tls-ca-cert-file", certificates.file("ca.pem"),
    )  # fmt: skip
    node = make_node(f"rediss://ann:sec%25ret@127.0.0.1:{port}/3", tls=certificates.client())
    use_all(reactor, node)
    assert node._receiver.connection.get_extra_info("ssl_object") is not None


def test_the_rights_of_the_readme_are_enough(reactor, make_server, make_node, tmp_path, caplog):
    server = make_server(*with_users(tmp_path, {"ann": RULE}))
    use_all(reactor, make_node(server.url.replace("unix://", "unix://ann:sec%25ret@")))
    assert "answered" not in caplog.text


def use_all(reactor, node):
    """Use all that a backplane has."""
    answers, heard = [], subscribed(node)
    node.subscribe("other", print).cancel()
    publish(node, 0, 5)
    spin(reactor, lambda: heard.events == numbers(0, 5) and settled(node))
    node._receiver.connection.abort()
    publish(node, 5, 10)
    spin(reactor, lambda: heard.events == numbers(0, 10) and settled(node))
    one, two = (node.take("group", name, answers.append) for name in ("one", "two"))
    spin(reactor, lambda: answers == [True, True])
    one.give_back()
    token = two.hand_over()
    node.take("group", "two", answers.append, token=token)
    node.members("group", answers.append)
    node.read_last("topic", 2, answers.append)
    node._renew()
    spin(reactor, lambda: len(answers) == 5)
    assert answers[2:] == [True, ["two"], numbers(8, 10)]


def test_each_right_of_the_readme_is_needed_and_named_where_it_is_missing(
    reactor, make_server, make_node, tmp_path, caplog
):
    rights = RULE.split()
    needed = [right for right in rights if right not in {"resetchannels", "+config|get", "+select"}]
    rules = {f"u{i}": " ".join(r for r in rights if r != right) for i, right in enumerate(needed)}
    server = make_server(*with_users(tmp_path, rules))
    nodes = [make_node(server.url.replace("unix://", f"unix://{name}:sec%25ret@")) for name in rules]
    for node in nodes:
        node.publish("topic", b"never")

    def named(right):
        kind = {"&": "a channel|channels", "~": "a key|keys"}.get(right[0], f"'{right[1:].split('|')[0]}")
        return re.search(rf"lacks {re.escape(right)}[; ]|{kind}", caplog.text)

    spin(reactor, lambda: all(map(named, needed)))
    assert not any(node.state is BackplaneState.UP for node in nodes)
    assert f"what it needs is: {RULE.replace(':*', ':0:*')}" in caplog.text
    with server.client() as client:
        client.sendall(b"AUTH admin admin\r\nXLEN reactor:0:h:topic\r\nHGET reactor:0:t:topic o\r\n")
        with client.makefile("rb") as answers:  # of those who may not subscribe; nothing is done by halves
            assert [answers.readline() for _ in range(4)] == [b"+OK\r\n", b":2\r\n", b"$1\r\n", b"2\r\n"]


# A server that refuses


def refuse(server, kind):
    match kind:
        case "READONLY":
            server.call("REPLICAOF", "127.0.0.1", "1")
        case "MASTERDOWN":
            server.call("CONFIG", "SET", "replica-serve-stale-data", "no")
            server.call("REPLICAOF", "127.0.0.1", "1")
        case "OOM":
            server.call("CONFIG", "SET", "maxmemory", "1")
        case "MISCONF":
            (server.folder / "dump.rdb").mkdir()
            server.call("CONFIG", "SET", "save", "3600 1")
            server.call("BGSAVE")


def accept(server, kind):
    match kind:
        case "READONLY" | "MASTERDOWN":
            server.call("REPLICAOF", "NO", "ONE")
        case "OOM":
            server.call("CONFIG", "SET", "maxmemory", "0")
        case "MISCONF":
            server.call("CONFIG", "SET", "save", "")


@pytest.mark.parametrize("kind", ["READONLY", "MASTERDOWN", "OOM", "MISCONF"])
def test_a_server_that_refuses_is_named_once_and_gets_the_messages_when_it_accepts_them(
    reactor, make_server, make_node, caplog, kind
):
    server = make_server()
    node = make_node(server.url, deadline=0.2)  # a heartbeat each 50 ms
    heard = subscribed(node)
    spin(reactor, lambda: settled(node))
    publish(node, 0, 5)
    spin(reactor, lambda: len(heard.events) == 5 and settled(node))
    refuse(server, kind)
    spin(reactor, lambda: node.state is BackplaneState.DEAF)
    publish(node, 5, 10)
    connections = node.stats().connected
    warnings = [each for each in caplog.records if each.levelname == "WARNING" and kind in each.getMessage()]
    assert len(warnings) == 1
    assert [each.levelname for each in caplog.records if "is deaf" in each.getMessage()] == ["ERROR"]
    accept(server, kind)
    spin(reactor, lambda: len(heard.events) == 10 and settled(node))
    assert heard.events == numbers(0, 10)
    assert node.stats().connected > connections


def test_a_replica_that_takes_over_without_the_last_messages_is_an_unknown_gap(
    reactor, make_server, make_node, port, tmp_path
):
    first = make_server(*DURABLE, "--port", str(port), "--repl-diskless-sync-delay", "0", name="first")
    second = make_server(*DURABLE, "--replicaof", "127.0.0.1", str(port), name="second")
    (tmp_path / "current").symlink_to("first")
    one, two = (make_node(f"unix://{tmp_path}/current/redis.sock") for _ in range(2))
    heard = subscribed(two)
    spin(reactor, lambda: settled(one, two))
    publish(one, 0, 10)
    spin(reactor, lambda: len(heard.events) == 10)
    spin(reactor, lambda: first.call("WAIT", "1", "1000") == b":1\r\n")
    second.call("REPLICAOF", "NO", "ONE")
    publish(one, 10, 15)
    spin(reactor, lambda: len(heard.events) == 15 and settled(one, two))
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(tmp_path / "current")
    first.kill()
    publish(one, 15, 20)
    spin(reactor, lambda: len(heard.events) == 21 and settled(one, two))
    assert heard.events == [*numbers(0, 15), None, *numbers(15, 20)]


def test_a_policy_by_which_topics_may_be_evicted_is_named(reactor, make_server, make_node, caplog):
    server = make_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    node = make_node(server.url)
    spin(reactor, lambda: settled(node))
    node._commands.link.connection.abort()
    spin(reactor, lambda: not settled(node))
    spin(reactor, lambda: settled(node))
    assert caplog.text.count("its maxmemory-policy is allkeys-lru, not noeviction") == 1


# What it is asked for


#: The version of Redis in which each command came, and each option of it that is sent.
SINCE = {
    "AUTH": (6, 0), "DEL": (1, 0), "EVALSHA": (2, 6), "EXISTS": (1, 0), "EXPIRE": (1, 0), "GET": (1, 0),
    "HDEL": (2, 0), "HGET": (2, 0), "HGETALL": (2, 0), "HMGET": (2, 0), "HSET": (4, 0), "INFO": (1, 0),
    "PEXPIRE": (2, 6), "PING": (1, 0), "PUBLISH": (2, 0), "SCRIPT LOAD": (2, 6), "SELECT": (1, 0),
    "CONFIG GET": (2, 0), "SET": (1, 0), "SET EX": (2, 6), "SET PX": (2, 6), "SET NX": (2, 6),
    "SET XX": (2, 6), "SUBSCRIBE": (2, 0), "TIME": (2, 6), "UNSUBSCRIBE": (2, 0), "XADD": (5, 0),
    "XADD MAXLEN": (5, 0), "XADD ~": (5, 0), "XRANGE": (5, 0), "XRANGE COUNT": (5, 0), "XRANGE (": (6, 2),
    "XREVRANGE": (5, 0), "XREVRANGE COUNT": (5, 0), "XTRIM": (5, 0), "XTRIM MAXLEN": (5, 0),
    "XTRIM MINID": (6, 2), "XTRIM ~": (5, 0),
}  # fmt: skip
#: Words of these commands that are no options: what they are about.
PLAIN = re.compile(r"\d+(-\d+)?|[-+]|[^A-Z(~]*[a-z:].*|")


def test_what_a_server_is_asked_for_is_known_to_redis_6_2(reactor, make_redis, make_node):
    server = make_redis()
    with server.client() as monitor, monitor.makefile("rb") as lines:
        monitor.sendall(b"MONITOR\r\n")
        assert lines.readline() == b"+OK\r\n"
        use_all(reactor, make_node(f"{server.url}?db=1"))
        server.call("PING", "the end")
        used = set()
        while b"the end" not in (line := lines.readline()):
            words = re.findall(r'"((?:[^"\\]|\\.)*)"', line.decode())
            name = words[0].upper()
            if name in {"CONFIG", "SCRIPT"}:
                name = f"{name} {words[1]}"
            used.add(name)
            if name in {"SET", "XADD", "XTRIM", "XRANGE", "XREVRANGE", "EXPIRE", "PEXPIRE"}:
                options = (word for word in words[2:] if not PLAIN.fullmatch(word))
                used |= {f"{name} {'(' if word[:1] == '(' else word}" for word in options}
    assert used == SINCE.keys() - {"AUTH", "CONFIG GET"}  # which a monitor is not shown
    assert max(SINCE.values()) == (6, 2)
