"""Sending: the queue, flow control, deadlines, runs of GSO."""

import errno
import socket
from itertools import repeat

import pytest

from reactor.datagrams import DatagramLimits
from reactor.testing import DatagramRecorder, ScriptedSocket
from tests.helpers import pass_time, settle


def flow(recorder):
    return [name for name in recorder.names if name.endswith("_writing")]


@pytest.mark.parametrize("data", [None, "text", 5])
@pytest.mark.parametrize("options", [{}, {"gso": True}])
def test_what_is_no_bytes_is_a_type_error(ends, data, options):
    endpoint = ends.bind(**options).endpoint
    with pytest.raises(TypeError):
        endpoint.send(data, ("127.0.0.1", 9))


def test_bytes_may_be_changed_after_the_call(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[BlockingIOError])
    data = bytearray(b"before")
    recorder.endpoint.send(data, theirs.getsockname())
    data[:] = b"after!"
    ends.until(lambda: not recorder.endpoint.get_write_buffer_size())
    assert theirs.recv(100) == b"before"


def test_what_the_kernel_does_not_take_is_sent_in_order(ends):
    recorder, sock, theirs = ends.scripted()
    sock.add(sendto=[None, BlockingIOError, BlockingIOError])
    for number in range(5):
        assert recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    assert recorder.endpoint.stats().queued == 4
    ends.until(lambda: not recorder.endpoint.stats().queued)
    assert [theirs.recv(10) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert recorder.endpoint.stats().sent == 5


def test_pause_and_resume_follow_the_water_marks(ends):
    limits = DatagramLimits(high_water=100, low_water=20)
    recorder, sock, theirs = ends.scripted(limits=limits)
    sock.add(sendto=repeat(BlockingIOError, 3))
    for _ in range(12):
        recorder.endpoint.send(bytes(10), theirs.getsockname())
    assert flow(recorder) == ["pause_writing"]
    assert recorder.endpoint.get_write_buffer_size() == 120
    ends.until(lambda: not recorder.endpoint.get_write_buffer_size())
    assert flow(recorder) == ["pause_writing", "resume_writing"]


def test_many_small_datagrams_pause_writing_too(ends):
    recorder, sock, theirs = ends.scripted(limits=DatagramLimits(max_queued_datagrams=8))
    sock.add(sendto=[BlockingIOError])
    for _ in range(5):
        recorder.endpoint.send(b"", theirs.getsockname())
    assert flow(recorder) == ["pause_writing"]
    ends.until(lambda: flow(recorder) == ["pause_writing", "resume_writing"])


@pytest.mark.parametrize(
    ("limits", "size", "taken"),
    [
        (DatagramLimits(max_queued_datagrams=4), 1, 4),
        (DatagramLimits(high_water=100, low_water=10, max_queued_bytes=100), 30, 3),
    ],
)
def test_queue_is_bounded(ends, limits, size, taken):
    recorder, sock, theirs = ends.scripted(limits=limits)
    sock.add(sendto=repeat(BlockingIOError))
    results = [recorder.endpoint.send(bytes(size), theirs.getsockname()) for _ in range(10)]
    assert results == [True] * taken + [False] * (10 - taken)
    assert recorder.endpoint.stats().refused == {"queue_full": 10 - taken}


def test_late_datagrams_are_dropped_and_counted(timed, clock):
    recorder, ours = DatagramRecorder(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock = ScriptedSocket(ours, sendto=repeat(BlockingIOError))
    limits = DatagramLimits(queue_timeout=2.0, high_water=0, low_water=0)
    endpoint = timed.bind_datagram(sock, lambda: recorder, limits=limits)
    endpoint.send(b"early", ("127.0.0.1", 9))
    pass_time(timed, clock, 1.0)
    endpoint.send(b"later", ("127.0.0.1", 9))
    pass_time(timed, clock, 1.0)
    assert (endpoint.stats().queued, dict(endpoint.stats().dropped)) == (1, {"queue_timeout": 1})
    assert flow(recorder) == ["pause_writing"]
    pass_time(timed, clock, 1.0)
    assert (endpoint.stats().queued, dict(endpoint.stats().dropped)) == (0, {"queue_timeout": 2})
    assert flow(recorder) == ["pause_writing", "resume_writing"]


def test_water_marks_can_be_set(ends):
    recorder, sock, theirs = ends.scripted()
    endpoint = recorder.endpoint
    assert endpoint.get_write_buffer_limits() == (16384, 65536)
    sock.add(sendto=repeat(BlockingIOError))
    endpoint.send(bytes(50), theirs.getsockname())
    endpoint.set_write_buffer_limits(high=40)
    assert endpoint.get_write_buffer_limits() == (10, 40)
    assert flow(recorder) == ["pause_writing"]
    endpoint.set_write_buffer_limits()
    assert endpoint.get_write_buffer_limits() == (16384, 65536)
    assert flow(recorder) == ["pause_writing", "resume_writing"]
    with pytest.raises(ValueError, match=r"low \(5\) must be between 0 and high \(4\)"):
        endpoint.set_write_buffer_limits(high=4, low=5)


def test_unix_receiver_without_room_is_tried_again(reactor, ends, tmp_path):
    path = str(tmp_path / "slow")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as slow:
        slow.bind(path)
        sender = ends.bind(f"unix:{tmp_path}/sender")
        count = 0
        while not sender.endpoint.stats().queued:
            sender.endpoint.send(b"%d" % count, path)
            count += 1
        polls = reactor.stats().ticks
        for _ in range(3):
            reactor.run_once(0.02)
        assert reactor.stats().ticks - polls == 3  # it waits, although the socket is writable
        heard = [slow.recv(10) for _ in range(count - 1)]
        ends.until(lambda: not sender.endpoint.stats().queued)
        heard.append(slow.recv(10))
    assert heard == [b"%d" % number for number in range(count)]


def test_unix_peer_that_was_started_again_is_heard_again(reactor, ends, tmp_path):
    where = f"unix:{tmp_path}/server"
    first = ends.bind(where)
    client = ends.connect(where, local_address=f"unix:{tmp_path}/client")
    first.endpoint.close()
    settle(reactor)
    assert [client.endpoint.send(b"lost") for _ in range(2)] == [False, False]
    settle(reactor)
    assert [exc.errno for exc, _ in client.errors] == [errno.ENOENT] * 2
    assert client.endpoint.stats().dropped == {"ENOENT": 2}
    second = ends.bind(where)
    numbers = [b"%d" % number for number in range(50)]
    assert all(client.endpoint.send(number) for number in numbers)
    ends.until(lambda: second.received == numbers)
    second.endpoint.send(b"answer", f"{tmp_path}/client")
    ends.until(lambda: client.received == [b"answer"])


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
@pytest.mark.parametrize("connected", [False, True])
def test_runs_arrive_whole_with_gso_and_gro(ends, address, connected):
    server = ends.bind(address, gro=True)
    client = ends.connect(server.endpoint.address, gso=True) if connected else ends.bind(address, gso=True)
    sent = [bytes([number]) * 1000 for number in range(100)] + [b"short", b"", b"x" * 40_000, b"end"]
    for data in sent:
        assert client.endpoint.send(data, server.endpoint.address)
    ends.until(lambda: len(server.received) == len(sent))
    assert server.received == sent
    assert client.endpoint.stats().sent == len(sent)
    assert server.endpoint.stats().bytes_received == sum(map(len, sent))


def test_gso_sends_many_by_one_call_and_in_order(ends):
    recorder, sock, theirs = ends.scripted(gso=True)
    address = theirs.getsockname()
    sock.calls.clear()
    for number in range(10):
        recorder.endpoint.send(b"%03d" % number, address)
    recorder.endpoint.send(bytearray(b"end"), address)
    ends.until(lambda: recorder.endpoint.stats().sent == 11)
    assert [name for name in sock.calls if name.startswith("send")] == ["sendmsg"]
    assert [theirs.recv(10) for _ in range(11)] == [b"%03d" % number for number in range(10)] + [b"end"]


def test_gso_sends_to_several_addresses_in_order(ends):
    receivers = [ends.bind() for _ in range(2)]
    sender = ends.bind(gso=True)
    for number in range(6):
        sender.endpoint.send(b"%d" % number, receivers[number // 2 % 2].endpoint.address)
    ends.until(lambda: sum(len(each.received) for each in receivers) == 6)
    assert [each.received for each in receivers] == [[b"0", b"1", b"4", b"5"], [b"2", b"3"]]


def test_run_that_the_kernel_does_not_take_is_queued(ends):
    recorder, sock, theirs = ends.scripted(gso=True)
    sock.add(sendmsg=[BlockingIOError, BlockingIOError])
    for number in range(5):
        recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    ends.until(lambda: recorder.endpoint.stats().queued == 5)
    recorder.endpoint.send(b"5", theirs.getsockname())
    ends.until(lambda: not recorder.endpoint.stats().queued)
    assert [theirs.recv(10) for _ in range(6)] == [b"%d" % number for number in range(6)]


def test_run_that_the_kernel_refuses_is_sent_one_by_one(ends, caplog):
    caplog.set_level("INFO", "reactor")
    recorder, sock, theirs = ends.scripted(gso=True)
    sock.add(sendmsg=[OSError(errno.EIO, "no checksums")])
    for number in range(5):
        recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    ends.until(lambda: recorder.endpoint.stats().sent == 5)
    assert [theirs.recv(10) for _ in range(5)] == [b"%d" % number for number in range(5)]
    assert "the kernel sends 5 datagrams of 1 B one by one" in caplog.text


def test_close_and_abort_leave_no_run_behind(ends):
    recorder, _, theirs = ends.scripted(gso=True)
    for number in range(3):
        recorder.endpoint.send(b"%d" % number, theirs.getsockname())
    recorder.endpoint.close()
    ends.until(lambda: recorder.lost)
    assert [theirs.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
    other = ends.bind(gso=True)
    other.endpoint.send(b"x", theirs.getsockname())
    other.endpoint.abort()
    ends.until(lambda: other.lost)
    assert other.endpoint.stats().dropped == {"closed": 1}
