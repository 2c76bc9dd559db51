"""Sending, beside a model: what the kernel takes, refuses or fails, deadlines, closing, in any order."""

import errno
import socket

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor import Reactor
from reactor.datagrams import DatagramLimits
from reactor.testing import DatagramRecorder, ManualClock

LIMITS = DatagramLimits(
    high_water=60, low_water=20, max_queued_bytes=120, max_queued_datagrams=12, queue_timeout=5.0, batch=4
)
ADDRESS = ("127.0.0.1", 9)


class Kernel:
    """A socket that takes `room` datagrams, and then no more; or fails the next with `failure`."""

    def __init__(self, sock):
        self.sock = sock
        self.room = 0
        self.failure = None
        self.taken = []

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def sendto(self, data, address):
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise OSError(failure, "no")
        if not self.room:
            raise BlockingIOError
        self.room -= 1
        self.taken.append(bytes(data))
        return len(data)


class Model:
    """What a correct endpoint does: the same calls, on lists."""

    def __init__(self, clock):
        self.clock = clock
        self.queue, self.taken = [], []
        self.room, self.failure = 0, None
        self.failed = self.late = self.refused = self.dropped = 0
        self.closing = self.ended = False

    def hand_over(self, data):
        """Return whether the kernel has taken or failed a datagram; None if it takes nothing."""
        if self.failure is not None:
            self.failure = None
            self.failed += 1
            return False
        if not self.room:
            return None
        self.room -= 1
        self.taken.append(data)
        return True

    def send(self, data):
        if self.closing:
            self.refused += 1
            return False
        if not self.queue:
            done = self.hand_over(data)
            if done is not None:
                return done
        if len(self.queue) >= 12 or sum(len(each) for each, _ in self.queue) + len(data) > 120:
            self.refused += 1
            return False
        self.queue.append((data, self.clock() + 5.0))
        return True

    def tick(self):
        for _ in range(4):  # the batch
            if not self.queue or self.hand_over(self.queue[0][0]) is None:
                break
            self.queue.pop(0)
        late = [each for each in self.queue if each[1] <= self.clock()]
        self.late += len(late)
        self.queue = self.queue[len(late) :]

    def close(self):
        self.closing = True

    def abort(self):
        self.closing = True
        self.dropped += len(self.queue)
        self.queue = []


class SendingMachine(RuleBasedStateMachine):
    """An endpoint on a scripted kernel, and the model on the same clock."""

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.model = Model(self.clock)
        self.reactor = Reactor(clock=self.clock)
        self.kernel = Kernel(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.recorder = DatagramRecorder()
        self.endpoint = self.reactor.bind_datagram(self.kernel, lambda: self.recorder, limits=LIMITS)
        self.number = 0

    def teardown(self):
        self.reactor.close()
        assert self.recorder.names.count("connection_lost") == 1
        assert self.recorder.names[-1] == "connection_lost"

    @rule(size=st.integers(2, 40))
    def send(self, size):
        data = b"%02d" % (self.number % 100) + bytes(size - 2)
        self.number += 1
        assert self.endpoint.send(data, ADDRESS) is self.model.send(data)

    @rule(room=st.integers(0, 6))
    def make_room(self, room):
        self.kernel.room = self.model.room = room

    @rule(number=st.sampled_from([errno.EPERM, errno.ENOBUFS]))
    def fail_next(self, number):
        self.kernel.failure = self.model.failure = number

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 5.0]))
    def tick(self, seconds):
        """Let time pass, then run a tick: what is writable comes before what is late."""
        self.clock.advance(seconds)
        self.reactor.run_once(0)
        self.model.tick()

    @precondition(lambda self: not self.model.closing)
    @rule()
    def close(self):
        self.endpoint.close(timeout=1000)
        self.model.close()

    @rule()
    def abort(self):
        self.endpoint.abort()
        self.model.abort()

    @invariant()
    def agree(self):
        stats, model = self.endpoint.stats(), self.model
        assert self.kernel.taken == model.taken
        assert (stats.queued, stats.queued_bytes) == (
            len(model.queue),
            sum(len(data) for data, _ in model.queue),
        )
        assert stats.sent == len(model.taken)
        assert stats.dropped.get("queue_timeout", 0) == model.late
        assert stats.dropped.get("closed", 0) == model.dropped
        assert stats.dropped.get("EPERM", 0) + stats.dropped.get("ENOBUFS", 0) == model.failed
        assert sum(stats.refused.values()) == model.refused
        assert self.endpoint.is_closing() is model.closing

    @invariant()
    def flow_follows_the_queue(self):
        flow = [name for name in self.recorder.names if name.endswith("_writing")]
        assert flow == (["pause_writing", "resume_writing"] * len(flow))[: len(flow)]
        size, paused = self.endpoint.get_write_buffer_size(), flow[-1:] == ["pause_writing"]
        if not self.model.closing:
            assert paused or (size <= 60 and self.endpoint.stats().queued <= 6)
            assert not paused or size > 20 or self.endpoint.stats().queued > 3


TestSending = SendingMachine.TestCase
TestSending.settings = settings(max_examples=100, stateful_step_count=30)
