"""The load of datagrams: what it sends, receives and loses adds up."""

import pytest

from bench.harness.datagrams import load
from bench.harness.measure import serving


@pytest.mark.parametrize("kind", ["reactor", "asyncio"])
def test_echo_is_answered(kind):
    with serving(kind, "datagrams", "echo") as server:
        done = load(server, "echo", 0.05, clients=4, size=64, depth=2)
    assert 0 < done.received <= done.sent
    assert done.sent - done.received - done.lost <= 4 * 2
    assert done.cpu > 0


@pytest.mark.parametrize(("mode", "word", "name"), [("to", "drop", "received"), ("from", "blast", "sent")])
def test_bulk_is_counted_by_the_server(mode, word, name):
    with serving("reactor", "datagrams", word) as server:
        done = load(server, mode, 0.05)
        moved = server.process.ask("count")[name]
    assert moved > 0
    assert (done.sent if mode == "to" else done.received) > 0


def test_flood_s_losses_are_counted_to_the_last_one():
    with serving("reactor", "datagrams", "slow") as server:
        done = load(server, "flood", 0.05, clients=2, size=64, rate=100_000)
        counts = server.process.ask("count")
        while counts["received"] + counts["dropped"] < done.sent:
            counts = server.process.ask("count")
    assert counts["received"] + counts["dropped"] == done.sent
