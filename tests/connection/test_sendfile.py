"""Sending files: by the kernel, or by reading where the kernel can't."""

import errno
import os
import socket

import pytest

from reactor import Limits, Reactor
from reactor.connection.sendfile import send_part
from reactor.errors import UsageError
from reactor.testing import ManualClock, Recorder
from tests.helpers import pair, receive

CONTENT = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(params=["by the kernel", "without sendfile", "of a file system that can't"])
def way(request, monkeypatch):
    def unfit(*args):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    if request.param == "without sendfile":
        monkeypatch.delattr(os, "sendfile")
    elif request.param != "by the kernel":
        monkeypatch.setattr(os, "sendfile", unfit)


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "content"
    made.write_bytes(CONTENT)
    return made


@pytest.mark.usefixtures("way")
def test_file_keeps_its_place_between_writes(reactor, path):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    with peer:
        connection.write(b"before")
        file = path.open("rb")
        assert connection.sendfile(file, 100, len(CONTENT) - 200) is False
        connection.write(b"after")
        expected = b"before" + CONTENT[100:-100] + b"after"
        assert receive(reactor, peer, lambda got: len(got) == len(expected)) == expected
        assert file.closed
        assert recorder.names == ["connection_made", "pause_writing", "resume_writing"]
        assert reactor.stats().bytes_sent == len(expected)


@pytest.mark.parametrize("offset", [0, 1, len(CONTENT) - 1])
def test_without_a_count_the_rest_of_the_file_is_sent(reactor, path, offset):
    connection, peer = pair(reactor, Recorder())
    with peer:
        connection.sendfile(path.open("rb"), offset)
        rest = CONTENT[offset:]
        assert receive(reactor, peer, lambda got: len(got) >= len(rest)) == rest
        assert connection.get_write_buffer_size() == 0


def test_small_file_does_not_pause(reactor, tmp_path):
    (tmp_path / "small").write_bytes(b"small")
    connection, peer = pair(reactor, Recorder())
    with peer:
        assert connection.sendfile((tmp_path / "small").open("rb")) is True
        assert receive(reactor, peer, lambda got: got == b"small")


def test_close_sends_the_rest_of_the_file(reactor, path):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    with peer:
        connection.sendfile(path.open("rb"))
        connection.close()
        assert receive(reactor, peer, lambda got: recorder.lost) == CONTENT
        assert recorder.reason is None


def test_sending_no_bytes_of_a_file_does_nothing(reactor, path):
    connection, peer = pair(reactor, Recorder())
    with peer:
        file = path.open("rb")
        assert connection.sendfile(file, len(CONTENT)) is True
        assert file.closed
        assert connection.get_write_buffer_size() == 0


@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (0, -1), (1, len(CONTENT)), (len(CONTENT) + 1, 1)])
def test_count_beyond_the_end_of_the_file_is_refused(reactor, path, offset, count):
    connection, peer = pair(reactor, Recorder())
    with peer, path.open("rb") as file:
        with pytest.raises(ValueError, match=f"the file has {len(CONTENT)} bytes, and not"):
            connection.sendfile(file, offset, count)
        assert not file.closed


def test_file_does_not_count_under_max_write_buffer(reactor, path):
    recorder = Recorder()
    limits = Limits(high_water=1000, low_water=0, max_write_buffer=10_000)
    connection, peer = pair(reactor, recorder, limits=limits)
    with peer:
        connection.sendfile(path.open("rb"))
        connection.write(b"more")
        connection.write(b"and more")
        expected = CONTENT + b"moreand more"
        assert receive(reactor, peer, lambda got: len(got) == len(expected)) == expected


def test_file_that_became_shorter_ends_the_connection(reactor, path):
    recorder = Recorder()
    connection, peer = pair(reactor, recorder)
    with peer:
        connection.sendfile(path.open("rb"))
        os.truncate(path, 1000)
        receive(reactor, peer, lambda got: recorder.lost)
        assert recorder.reason.errno == errno.EIO
        assert "before all of it was sent" in str(recorder.reason)


def test_file_is_closed_when_the_connection_is_lost_or_refuses_it(reactor, path):
    connection, peer = pair(reactor, Recorder())
    with peer:
        first, second = path.open("rb"), path.open("rb")
        connection.sendfile(first)
        connection.abort()
        assert first.closed
        assert connection.sendfile(second) is False
        assert second.closed


def test_sendfile_after_write_eof_is_refused(reactor, path):
    connection, peer = pair(reactor, Recorder())
    with peer, path.open("rb") as file:
        connection.write_eof()
        with pytest.raises(UsageError):
            connection.sendfile(file)


@pytest.mark.usefixtures("way")
def test_file_is_sent_at_the_write_rate(path):
    clock, recorder, rate = ManualClock(), Recorder(), len(CONTENT) // 4
    with Reactor(clock=clock) as reactor:
        connection, peer = pair(reactor, recorder, limits=Limits(write_rate=rate))
        with peer:
            start = clock.now
            connection.sendfile(path.open("rb"))
            got = bytearray()
            while len(got) < len(CONTENT):
                reactor.run_once(0)
                assert not recorder.lost
                try:
                    got += peer.recv(1 << 20)
                except BlockingIOError:
                    clock.advance(0.05)
                assert len(got) <= rate * (clock.now - start + 1)
            assert bytes(got) == CONTENT
            assert clock.now - start < 4
            connection.abort()


def test_full_socket_raises_blocking_io_error(path):
    ours, theirs = socket.socketpair()
    with ours, theirs, path.open("rb") as file:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                send_part(ours, file, 0, len(CONTENT), None)
