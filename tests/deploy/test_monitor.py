"""What all workers have counted: asked for, added up, and kept through every kind of replacement."""

import select
import signal
import time
from contextlib import closing

import pytest

from reactor import Reactor
from reactor.deploy.channel import Channel
from reactor.deploy.monitor import Member, Monitor, State
from reactor.status.overview import Phase
from reactor.testing import ManualClock
from tests.deploy.programs import deployed, serving
from tests.helpers import DEADLINE, client_of, spin
from tests.status.clients import get, metrics
from tests.status.test_ledger import snapshot

ACCEPTED = ("reactor_connections_accepted_total",)


class Workers:
    """A monitor, and the workers' ends of its channels."""

    def __init__(self, reactor):
        self.reactor = reactor
        self.state = State(Phase.RUNNING, 2, 0)
        self.members, self.ends, self.channels, self.found = [], {}, [], []
        self.monitor = Monitor(reactor, lambda: self.members, lambda: self.state, "name")

    def pair(self):
        pair = Channel.pair()
        self.channels += pair
        return pair

    def add(self, index, pid, phase="serving"):
        ours, self.ends[pid] = self.pair()
        self.members.append(Member(index, pid, phase, ours))

    def ask(self):
        self.found.clear()
        self.monitor.collect(self.found.append)

    def answer(self, pid, **counters):
        """Answer as the worker does, and as the supervisor passes it on."""
        assert self.ends[pid].receive().kind == "status"
        self.say(pid, **counters)

    def say(self, pid, last=False, **counters):
        self.ends[pid].send("snapshot", snapshot=snapshot(pid, **counters).to_json(), last=last)
        (member,) = (member for member in self.members if member.pid == pid)
        self.monitor.answer(member.index, pid, member.channel.receive())

    def end(self, pid):
        self.members = [member for member in self.members if member.pid != pid]
        return self.monitor.ended(pid)

    def close(self):
        self.monitor.close()
        for channel in self.channels:
            channel.close()


@pytest.fixture
def workers(reactor, descriptors):
    made = Workers(reactor)
    yield made
    made.close()


def states(overview):
    return [(worker.index, worker.pid, worker.phase, worker.answers) for worker in overview.workers]


def test_overview_comes_with_the_last_answer(workers):
    workers.add(1, 11)
    workers.add(0, 10)
    workers.ask()
    workers.monitor.collect(workers.found.append)  # the same question
    workers.answer(10, accepted=1)
    assert workers.found == []
    workers.answer(11, accepted=2)
    first, second = workers.found
    assert first is second
    assert states(first) == [(0, 10, "serving", True), (1, 11, "serving", True)]
    assert first.by_worker == {0: {"accepted": 1}, 1: {"accepted": 2}}
    assert (first.phase, first.target, first.name) == (Phase.RUNNING, 2, "name")


def test_worker_that_starts_is_not_asked(workers):
    workers.add(0, 10, "starting")
    workers.ask()
    spin(workers.reactor, lambda: workers.found)
    assert workers.ends[10].receive() is None
    assert states(workers.found[0]) == [(0, 10, "starting", False)]


def test_worker_that_hangs_is_waited_for_once_and_asked_no_more_until_it_answers(workers):
    workers.add(0, 10)
    workers.add(1, 11)
    for _ in range(3):
        workers.ask()
        workers.answer(10, accepted=1)
        spin(workers.reactor, lambda: workers.found)
        assert states(workers.found[0]) == [(0, 10, "serving", True), (1, 11, "serving", False)]
    workers.answer(11, accepted=5)
    assert workers.ends[11].receive() is None
    workers.ask()
    workers.answer(10, accepted=1)
    workers.answer(11, accepted=6)
    assert states(workers.found[0])[1] == (1, 11, "serving", True)


def test_worker_that_ends_is_not_waited_for_and_its_counters_stay(workers):
    workers.add(0, 10)
    workers.ask()
    workers.say(10, accepted=3)  # its last words
    assert len(workers.found) == 1
    workers.end(10)
    workers.add(0, 12)
    workers.ask()
    workers.end(12)
    (overview,) = workers.found
    assert (overview.workers, overview.by_worker) == ([], {0: {"accepted": 3}})


def test_counters_of_the_supervisor_itself(workers):
    workers.monitor.count(0, "starts")
    workers.monitor.count(0, "starts")
    workers.ask()
    spin(workers.reactor, lambda: workers.found)
    assert workers.found[0].by_worker == {0: {"starts": 2}}


def test_successor_goes_on_with_the_sums_and_sees_what_is_left_of_the_old_workers(workers):
    old, new = workers, Workers(workers.reactor)
    to_new, to_old = old.pair()
    old.add(0, 10)
    old.ask()
    old.answer(10, accepted=3)
    old.monitor.hand_over(to_new)
    new.monitor.follow(to_old)
    new.add(0, 20)
    old.members = [Member(0, 10, "draining", old.members[0].channel)]

    def collect(of_new, of_old):
        new.ask()
        new.answer(20, accepted=of_new)
        spin(new.reactor, lambda: select.select([to_new], [], [], 0)[0])
        assert to_new.receive().kind == "status"
        old.monitor.report_to_successor()
        old.answer(10, accepted=of_old)
        spin(new.reactor, lambda: new.found)
        return new.found[0]

    overview = collect(of_new=1, of_old=4)
    assert overview.phase is Phase.REPLACING
    assert states(overview) == [(0, 10, "draining", True), (0, 20, "serving", True)]
    assert overview.by_worker == {0: {"accepted": 5}}
    assert collect(of_new=2, of_old=4).by_worker == {0: {"accepted": 6}}
    old.say(10, accepted=9)
    old.end(10)
    to_new.close()
    spin(new.reactor, lambda: new.monitor._before is None)
    new.ask()
    new.answer(20, accepted=2)
    (overview,) = new.found
    assert (overview.phase, overview.by_worker) == (Phase.RUNNING, {0: {"accepted": 11}})
    assert states(overview) == [(0, 20, "serving", True)]
    new.close()


def test_sums_that_the_successor_has_no_room_for_come_later(workers):
    to_new, to_old = workers.pair()
    workers.monitor.count(0, "starts")
    while to_new.send("filler", text="x" * 10_000):
        pass
    workers.monitor.hand_over(to_new)
    while to_old.receive() is not None:
        pass
    workers.monitor.count(0, "starts")
    workers.monitor.ended(99)
    assert to_old.receive().fields == {"index": 0, "counters": {"starts": 2}}
    workers.monitor.ended(99)
    assert to_old.receive() is None  # nothing is counted twice


def test_it_is_known_of_how_many_seconds_a_killed_worker_takes_its_counts_with_it():
    clock = ManualClock()
    with Reactor(clock=clock) as reactor, closing(Workers(reactor)) as workers:
        for index in range(4):
            workers.add(index, index)
            if index:
                workers.monitor.began(index)
        clock.advance(5)
        reactor.run_once(0)
        workers.say(2)
        clock.advance(2)
        reactor.run_once(0)
        workers.say(3, last=True)
        # One that was never ready, one that nobody has looked at, one that somebody has, one that was asked
        # to end and has said what it counted.
        assert [workers.end(pid) for pid in range(4)] == [0, 7, 2, 0]


# Real processes


def status_of(deployment):
    return deployment.wait_for(r"status page: http://(\S+)/")[1]


def wait_until(address, condition):
    deadline = time.monotonic() + DEADLINE
    while not condition(found := metrics(address)):
        assert time.monotonic() < deadline, found
    return found


def exchange(address, times):
    for _ in range(times):
        with client_of(address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_counters_go_on_through_restarts_replacements_and_kills(tmp_path):
    path = tmp_path / "status"
    with serving(tmp_path, "--status", f"unix:{path}", app="echo", workers=2) as deployment:
        status = deployment.wait_for(r"status page: (unix:\S+)")[1]
        deployment.workers(2)
        address = deployment.started(2)
        exchange(address, 5)
        assert metrics(status)[ACCEPTED] == 5
        deployment.signal(signal.SIGHUP)
        new = deployment.workers(2)
        deployment.wait_for("all workers are restarted")
        exchange(address, 5)
        assert metrics(status)[ACCEPTED] == 10
        deployment.signal(signal.SIGUSR2)
        deployment.follow()
        exchange(address, 5)
        found = wait_until(status, lambda found: found["reactor_state", "running"])
        assert found[ACCEPTED] == 15
        assert {labels[0] for name, *labels in found if name == "reactor_worker_up"}.isdisjoint(
            map(str, new.values())
        )
        victim = next(
            int(labels[0]) for name, *labels in found if name == "reactor_worker_up" and labels[2] == "0"
        )
        deployment.signal(signal.SIGKILL, victim)
        lost = f"process {victim}[)]: the status page lacks what it counted in its last [0-9.]+ s"
        deployment.wait_for(lost)
        deployment.workers(1)
        found = wait_until(status, lambda found: found.get(("reactor_worker_failures_total", "0")))
        assert found[ACCEPTED] == 15
        assert found["reactor_worker_failures_total", "0"] == 1
        assert found["reactor_worker_starts_total", "0"] == 4
        assert found["reactor_worker_starts_total", "1"] == 3
        assert deployment.stop() == 0
        assert len([line for line in deployment.lines if "lacks" in line]) == 1
        assert not path.exists()


def test_worker_that_hangs_is_shown_as_such(tmp_path):
    with serving(tmp_path, "--status", f"unix:{tmp_path}/status", app="echo", workers=2) as deployment:
        status = deployment.wait_for(r"status page: (unix:\S+)")[1]
        pids = deployment.workers(2)
        deployment.started(2)
        assert get(status, "/ready")[::2] == (200, "ready\n")
        deployment.signal(signal.SIGSTOP, pids[1])
        found = wait_until(status, lambda found: not found["reactor_worker_up", str(pids[1]), "serving", "1"])
        assert found["reactor_worker_up", str(pids[0]), "serving", "0"] == 1
        assert get(status, "/ready")[::2] == (503, "worker 1: no answer\n")
        deployment.signal(signal.SIGCONT, pids[1])
        wait_until(status, lambda found: found["reactor_worker_up", str(pids[1]), "serving", "1"])
        assert get(status, "/ready")[::2] == (200, "ready\n")
        assert deployment.stop() == 0
        assert not (tmp_path / "status").exists()


READY = """
from reactor import Protocol
from reactor.deploy import Supervisor
from reactor.status import add_check


def setup(reactor):
    reactor.listen("127.0.0.1:0", Protocol)
    add_check(reactor, "backplane", lambda: "deaf")


Supervisor(setup, workers=1, status="127.0.0.1:0", name="shop").run()
"""


def test_checks_are_of_the_workers(tmp_path):
    (tmp_path / "program.py").write_text("import logging\nlogging.basicConfig(level='INFO')\n" + READY)
    with deployed(["program.py"], tmp_path) as deployment:
        status = status_of(deployment)
        deployment.started(1)
        assert get(status, "/ready")[::2] == (503, "worker 0: backplane: deaf\n")
        assert metrics(status)["reactor_check_failing", "backplane"] == 1
        assert "<title>shop</title>" in get(status, "/")[2]
        assert deployment.stop() == 0


MANY = """
import logging
import socket
import reactor.open_sockets
from reactor import Protocol
from reactor.deploy import Supervisor


def setup(reactor):
    for _ in range(20):
        ours, theirs = socket.socketpair()
        reactor.adopt(ours, Protocol)
        peers.append(theirs)


reactor.open_sockets.DESCRIPTORS_PER_TICK = 4
logging.basicConfig(level="INFO")
peers = []
Supervisor(setup, workers=2, status="127.0.0.1:0").run()
"""


def test_workers_look_at_their_connections_over_several_ticks(tmp_path):
    (tmp_path / "program.py").write_text(MANY)
    with deployed(["program.py"], tmp_path) as deployment:
        status = status_of(deployment)
        deployment.workers(2)
        found = wait_until(status, lambda found: found.get(("reactor_connections",)) == 40)
        assert [found["reactor_worker_connections", index] for index in "01"] == [20, 20]
        assert deployment.stop() == 0
