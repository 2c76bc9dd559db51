"""Snapshots: what a process says of itself, and how it gets to another one."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from reactor import Limits, Protocol
from reactor.datagrams import DatagramProtocol
from reactor.deploy.channel import Channel
from reactor.status import add_check
from reactor.status.snapshot import Snapshot, add_counters, labelled, take_snapshot
from reactor.testing import Recorder
from tests.helpers import connect, pair, spin


def test_snapshot_has_what_stats_have(reactor):
    listener = reactor.listen("127.0.0.1:0", Recorder, limits=Limits(max_connections=1, when_full="refuse"))
    with connect(reactor, listener.addresses[0]) as one, connect(reactor, listener.addresses[0]):
        one.sendall(b"12345")
        spin(reactor, lambda: reactor.stats().refused and reactor.stats().bytes_received == 5)
        found = take_snapshot(reactor)
    assert found.pid == os.getpid()
    assert found.counters["accepted"] == 1
    assert found.counters["refused:max_connections"] == 1
    assert found.counters["bytes_received"] == 5
    assert found.counters["cpu_seconds"] > 0
    assert sum(labelled(found.counters, "lag").values()) == found.counters["ticks"] > 0
    assert found.gauges == {"open": 1, "paused": 0, "lingering": 0, "queued_bytes": 0}
    assert [(state.address, state.connections, state.holds) for state in found.listeners] == [
        (str(listener.addresses[0]), 1, [])
    ]


def test_snapshot_has_the_counters_of_datagrams(reactor):
    endpoint = reactor.bind_datagram("127.0.0.1:0", DatagramProtocol)
    assert endpoint.send(b"x", endpoint.address)
    assert not endpoint.send(bytes(70_000), endpoint.address)
    spin(reactor, lambda: endpoint.stats().received)
    endpoint.close()
    assert not endpoint.send(b"late", endpoint.address)
    counters = take_snapshot(reactor).counters
    assert [counters[f"datagrams_{name}"] for name in ("received", "sent", "errors")] == [1, 1, 1]
    assert labelled(counters, "datagrams_dropped") == {"EMSGSIZE": 1}
    assert labelled(counters, "datagrams_refused") == {"closing": 1}


def test_why_a_listener_accepts_nothing(reactor):
    listener = reactor.listen("127.0.0.1:0", Protocol, limits=Limits(max_connections=1))
    listener.pause()
    assert take_snapshot(reactor).listeners[0].holds == ["paused"]
    listener.resume()
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: listener.connections)
        assert take_snapshot(reactor).listeners[0].holds == ["full"]


def test_drain_is_counted(reactor):
    _, peer = pair(reactor, Recorder())
    reactor.drain(10)
    reactor.run_once(0)
    assert take_snapshot(reactor).draining
    spin(reactor, lambda: not take_snapshot(reactor).draining)
    assert take_snapshot(reactor).counters["drained:idle"] == 1
    peer.close()


def test_it_is_the_same_after_json(reactor):
    reactor.listen("127.0.0.1:0", Protocol)
    add_check(reactor, "disk", lambda: "full")
    found = take_snapshot(reactor)
    assert Snapshot.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_process_of_another_version_is_understood():
    found = Snapshot.from_json({"pid": 7, "gauges": {"open": 2, "new": 1}, "unknown": [1]})
    assert found == Snapshot(
        pid=7, gauges={"open": 2, "new": 1, "paused": 0, "lingering": 0, "queued_bytes": 0}
    )


def test_largest_snapshot_fits_in_a_message(reactor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(60):
        reactor.listen(f"unix:{number:02}{chr(0xFE00) * 30}", Protocol)
    for number in range(60):
        add_check(reactor, chr(0x1F600) * 98 + f"{number:02}", lambda: chr(0x1F600) * 1000)
    counters = reactor._loop.counters
    for number in range(200):
        counters.closed[f"{number:03}{'E' * 100}"] = counters.refused[f"{number:03}"] = 1
    found = take_snapshot(reactor)
    assert sum(labelled(found.counters, "closed").values()) == 200
    assert labelled(found.counters, "closed")["other"] == 150
    assert (len(found.listeners), len(found.checks), len(found.problems)) == (50, 20, 20)
    one, other = Channel.pair()
    assert one.send("snapshot", snapshot=found.to_json())
    assert Snapshot.from_json(other.receive().fields["snapshot"]) == found
    one.close()
    other.close()


NAMES = st.sampled_from(["accepted", "closed:clean", "closed:ECONNRESET", "lag:0"])
COUNTERS = st.dictionaries(NAMES, st.integers(0, 1 << 60))


@given(st.lists(COUNTERS, max_size=5))
def test_counters_add_up_by_name(many):
    total = {}
    for counters in many:
        add_counters(total, counters)
    assert total == {
        name: sum(counters.get(name, 0) for counters in many)
        for name in {name for each in many for name in each}
    }
    assert set(labelled(total, "closed")) == {
        name.partition(":")[2] for name in total if name.startswith("closed:")
    }
