"""Overviews: when a server is ready, and why it is not."""

import pytest

from reactor import Protocol
from reactor.status import add_check
from reactor.status.overview import Overview, Phase, Worker, overview_of
from reactor.status.snapshot import ListenerState, take_snapshot
from reactor.testing import Recorder
from tests.helpers import pair
from tests.status.test_ledger import snapshot

FULL = ListenerState("127.0.0.1:80", 3, ["full"])
MOVING = ListenerState("127.0.0.1:80", 3, ["handover"])


def worker(index=0, phase="serving", answers=True, listeners=(), problems=None):
    found = snapshot(100 + index)
    found = type(found).from_json(
        {
            **found.to_json(),
            "gauges": {"open": 5, "paused": 0, "lingering": 0, "queued_bytes": 0},
            "listeners": [
                {"address": one.address, "connections": 3, "holds": one.holds} for one in listeners
            ],
            "checks": ["disk"],
            "problems": problems or {},
        }
    )
    return Worker(index=index, pid=100 + index, phase=phase, answers=answers, snapshot=found)


def overview(*workers, phase=Phase.RUNNING, target=2, by_worker=None):
    return Overview(phase=phase, workers=list(workers), target=target, by_worker=by_worker or {})


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        (overview(worker(0), worker(1)), []),
        (overview(worker(0), worker(1, "starting", answers=False)), []),
        (overview(worker(0), worker(1, "draining", answers=False)), []),
        (overview(worker(0), worker(1, answers=False)), ["worker 1: no answer"]),
        (overview(worker(0, "starting"), worker(1, "draining")), ["no worker serves"]),
        (overview(worker(0, listeners=[FULL])), ["worker 0: 127.0.0.1:80 accepts nothing: full"]),
        (overview(worker(0, listeners=[MOVING])), []),
        (overview(worker(0), worker(1, problems={"disk": "full"})), ["worker 1: disk: full"]),
        (overview(worker(0, problems={"disk": "full"}), target=None), ["disk: full"]),
        (overview(worker(0), phase=Phase.DRAINING), ["reactor is draining"]),
        (overview(worker(0), phase=Phase.STARTING), ["reactor is starting"]),
        (overview(worker(0), phase=Phase.RESTARTING), []),
        (overview(worker(0), phase=Phase.REPLACING), []),
    ],
)
def test_readiness(found, problems):
    assert found.problems() == problems


def test_gauges_are_of_the_processes_that_answer_and_counters_of_all():
    found = overview(
        worker(0), worker(1), worker(2, answers=False), by_worker={0: {"accepted": 1}, 7: {"accepted": 2}}
    )
    assert found.gauge("open") == 10
    assert found.totals() == {"accepted": 3}


def test_process_alone(reactor):
    listener = reactor.listen("127.0.0.1:0", Protocol)
    add_check(reactor, "disk", lambda: None)
    found = overview_of(take_snapshot(reactor), "name")
    assert (found.phase, found.target, found.problems()) == (Phase.RUNNING, None, [])
    listener.pause()
    assert overview_of(take_snapshot(reactor)).problems() == [
        f"{listener.addresses[0]} accepts nothing: paused"
    ]
    listener.resume()
    busy, peer = pair(reactor, Recorder())
    busy.write(bytes(4 << 20))
    reactor.drain(5)
    reactor.run_once(0)
    assert overview_of(take_snapshot(reactor), "name").problems() == ["name is draining"]
    peer.close()
