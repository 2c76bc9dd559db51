"""Files: files below the root are sent, and nothing else is opened."""

import contextlib
import os
import socket

import pytest

from reactor.apps import APPS
from tests.helpers import pair, spin

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def root(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"first")
    (root / "big").write_bytes(CONTENT)
    (root / "empty").write_bytes(b"")
    (root / "sub" / "deep").write_bytes(b"deep down")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def ask(reactor, root):
    _, peer = pair(reactor, APPS["files"].start(root)())

    def ask(*names):
        """Return the answers to `names`, and the rest after the last of them."""
        peer.sendall(b"".join(name + b"\n" for name in names))
        got = bytearray()
        answers = []

        def step():
            with contextlib.suppress(BlockingIOError):
                got.extend(peer.recv(1 << 20))
            while b"\n" in got:
                line, _, rest = bytes(got).partition(b"\n")
                size = int(line[3:]) if line.startswith(b"ok ") else 0
                if len(rest) < size:
                    break
                answers.append((line, rest[:size]) if size or line == b"ok 0" else line)
                got[:] = rest[size:]
            return len(answers) == len(names)

        spin(reactor, step)
        assert not got
        return answers

    with peer:
        yield ask


def test_files_are_sent_in_the_order_of_their_names(ask):
    assert ask(b"a", b"big", b"empty", b"sub/deep", b"a") == [
        (b"ok 5", b"first"),
        (b"ok 1048576", CONTENT),
        (b"ok 0", b""),
        (b"ok 9", b"deep down"),
        (b"ok 5", b"first"),
    ]


def test_directories_are_listed(ask):
    assert ask(b"", b"sub/") == [
        (b"ok 22", b"a\nbig\nempty\npipe\nsub/\n"[:0] + b"a\nbig\nempty\npipe\nsub/\n"),
        (b"ok 5", b"deep\n"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"../secret", b"sub/../../secret", b"/etc/passwd", b"./a", b"sub/./deep", b"..", b".", b"../", b"//",
        b"link", b"up/secret", b"up/", b"a\0b",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_root_is_opened(ask, name):
    (answer,) = ask(name)
    assert answer.startswith(b"error ")


def test_name_without_a_file_is_an_error(ask, root):
    assert ask(b"pipe", b"sub", b"none", b"none/", b"a/b") == [
        b"error not a file",
        b"error not a file",
        b"error No such file or directory",
        b"error No such file or directory",
        b"error Not a directory",
    ]


def test_client_that_asks_for_a_thousand_listings_does_not_stop_another(reactor, tmp_path, monkeypatch):
    for number in range(100):
        (tmp_path / f"{number}").touch()
    listings = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda at: listings.append(at) or scandir(at))
    make = APPS["files"].start(tmp_path)
    _, greedy = pair(reactor, make())
    _, other = pair(reactor, make())
    with greedy, other:
        greedy.send(b"\n" * 65536)
        reactor.run_once(1)
        assert len(listings) <= 2
        other.send(b"0\n")
        for _ in range(4):
            before = len(listings)
            reactor.run_once(0)
            assert len(listings) - before <= 1
        assert other.recv(100) == b"ok 0\n"


@pytest.mark.parametrize("name", ["a", "big"])
def test_client_that_reads_nothing_has_one_file_open_and_one_answer_queued(reactor, root, name):
    size = (root / name).stat().st_size

    def opened():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
        return found.count(str(root / name))

    connection, peer = pair(reactor, APPS["files"].start(root)())
    connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with peer:
        peer.send(f"{name}\n".encode() * 10_000)
        while not connection.get_write_buffer_size():
            reactor.run_once(1)
            assert opened() <= 1
        for _ in range(10):
            reactor.run_once(0)
            assert opened() <= 1
        assert connection.get_write_buffer_size() <= size + 100
        got = 0

        def read():
            nonlocal got
            with contextlib.suppress(BlockingIOError):
                got += len(peer.recv(1 << 20))
            return got > 3 * len(CONTENT) or got == 10_000 * len(b"ok 5\nfirst")

        spin(reactor, read)
        assert opened() <= 1


def test_queued_names_are_answered_after_the_client_s_end_of_file(reactor, root):
    _, peer = pair(reactor, APPS["files"].start(root)())
    with peer:
        peer.send(b"a\n" * 100 + b"sub/deep")
        peer.shutdown(socket.SHUT_WR)
        got = bytearray()

        def read():
            with contextlib.suppress(BlockingIOError):
                more = peer.recv(1 << 16)
                got.extend(more)
                return not more

        spin(reactor, read)
        assert got == b"ok 5\nfirst" * 100 + b"ok 9\ndeep down"


@pytest.mark.usefixtures("descriptors")
def test_no_descriptor_is_leaked(reactor, root):
    _, peer = pair(reactor, APPS["files"].start(root)())
    with peer:
        peer.sendall(b"a\nsub/deep\nlink\nsub/\nnone\nbig\nbig\n")
        for _ in range(5):
            reactor.run_once(0)
            assert reactor.connections()
    spin(reactor, lambda: not reactor.connections())
    reactor.close()
