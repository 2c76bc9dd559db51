"""The scripts on the broker: what each does at once. How they work together, the tests of the engine show."""

import pytest

from reactor import Reactor
from reactor.backplane.link import Link
from reactor.backplane.scripts import FORGET, PUBLISH, READ, SCRIPTS, digest
from reactor.errors import BrokerError
from tests.backplane.broker import Broker
from tests.backplane.conftest import PROGRAMS, SERVERS
from tests.helpers import spin


@pytest.fixture(params=["scripted", *SERVERS])
def call(request, tmp_path):
    """Call a command or a script on a broker, and return the reply."""
    with Reactor() as reactor:
        if request.param in PROGRAMS:
            server = request.getfixturevalue("shared_servers")(request.param)
            address = f"unix:{server.folder}/redis.sock"
            server.call("FLUSHALL")
        else:
            address = f"unix:{tmp_path}/broker.sock"
            Broker(reactor, address)
        made, lost = [], []
        link = Link(
            on_made=made.append, on_lost=lambda link, exc: lost.append(exc), may_end=lambda: False
        )  # fmt: skip
        reactor.connect(address, lambda: link)
        spin(reactor, lambda: made)

        def call(*command):
            replies = []
            link.send(replies.append, *command)
            spin(reactor, lambda: replies or lost)
            if lost:
                raise lost[0]
            return replies[0]

        for script in SCRIPTS:
            assert call("SCRIPT", "LOAD", script).decode() == digest(script)
        yield call


KEYS = ("t:a", "h:a")


def publish(call, number, data, run="run", epoch="e1", length=1000, age=60_000):
    return call(
        "EVALSHA", digest(PUBLISH), 3, *KEYS, "p:me", run, epoch, FORGET, number, data, length, age
    )  # fmt: skip


def read(call, epoch="", last="0-0", run="run", new="e2", count=10, size=1000):
    return call("EVALSHA", digest(READ), 2, *KEYS, run, new, FORGET, epoch, last, count, size)


def test_publish_counts_messages_once(call):
    call("SET", "p:me", 0, "EX", FORGET)
    assert publish(call, 1, "one") == 1
    assert publish(call, 1, "one") == 0
    assert publish(call, 2, "two") == 1
    epoch, head, before, base, messages, _ = read(call, b"e1")
    assert (epoch, before, base) == (b"e1", b"", b"0-0")
    assert head.endswith(b"-2")
    assert [fields for _, fields in messages] == [[b"d", b"one"], [b"d", b"two"]]
    assert read(call, b"e1", messages[0][0])[4] == messages[1:]
    assert read(call)[4:] == [[], 1]


def test_an_answer_of_the_history_is_bounded_by_messages_and_bytes_and_says_whether_it_is_all(call):
    call("SET", "p:me", 0, "EX", FORGET)
    for number in range(1, 11):
        publish(call, number, b"x" * 100)
    last = b"0-0"
    for sizes, options in (([7, 3], {"count": 5}), ([3, 3, 3, 1], {"size": 300}), ([7, 3], {"size": 301})):
        last = b"0-0"
        for size in sizes:
            *_, messages, complete = read(call, b"e1", last, **options)
            assert len(messages) == size
            last = messages[-1][0]
            assert complete == (last.endswith(b"-10"))
    assert read(call, b"e1", last)[4:] == [[], 1]


@pytest.mark.parametrize("known", [None, 0, 5])
def test_publish_refuses_what_leaves_a_message_out(call, known):
    if known is not None:
        call("SET", "p:me", known, "EX", FORGET)
    with pytest.raises(BrokerError, match="ORDER"):
        publish(call, 7, "seven")


def test_another_run_of_the_server_is_another_epoch_that_says_where_the_one_before_has_ended(call):
    call("SET", "p:me", 0, "EX", FORGET)
    publish(call, 1, "one")
    _, last, *_ = read(call)
    epoch, head, before, base, messages, _ = read(call, b"e1", last, run="run2")
    assert (epoch, head, before, base, messages) == (b"e2", last, b"e1", last, [])
    publish(call, 2, "two", run="run2")
    for epoch, after in ((b"e1", last), (b"e2", last), (b"e1", b"9-9"), (b"unknown", b"0-0")):
        assert [fields[1] for _, fields in read(call, epoch, after, run="run2")[4]] == [b"two"]
    assert [fields[1] for _, fields in read(call, b"e1", b"0-0", run="run2")[4]] == [b"one", b"two"]


def test_another_run_of_a_durable_server_is_the_same_epoch(call):
    call("SET", "p:me", 0, "EX", FORGET)
    publish(call, 1, "one", run="run+")
    publish(call, 2, "two", run="run2+")
    assert [fields[1] for _, fields in read(call, b"e1", run="run3+", new="e3")[4]] == [b"one", b"two"]
    assert read(call, run="run4", new="e4")[0] == b"e4"  # it may have lost some from now on
    assert read(call, run="run5+", new="e5")[0] == b"e5"


def test_within_a_run_the_epoch_goes_on_whoever_knows_how_durable_it_is(call):
    call("SET", "p:me", 0, "EX", FORGET)
    for number, run in enumerate(("run", "run+", "run"), 1):
        publish(call, number, "one", run=run, epoch=f"e{number}")
    assert read(call, run="run+")[0] == b"e1"
    assert read(call, run="run2+", new="e2")[0] == b"e2"  # somebody could not tell that the run was durable
    assert read(call, run="run3+", new="e3")[0] == b"e2"
    assert read(call, run="run3", new="e4")[0] == b"e2"
    assert read(call, run="run4+", new="e5")[0] == b"e5"


def test_numbers_of_any_size_are_counted(call):
    large = 2**53 - 10
    call("SET", "p:me", large, "EX", FORGET)
    assert publish(call, large + 1, "one") == 1
    assert publish(call, large + 1, "one") == 0
    assert publish(call, large + 2, "two") == 1
