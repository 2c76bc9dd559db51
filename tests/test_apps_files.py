"""Files: what is below the root is sent, and nothing else is opened."""

import contextlib
import os

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

        def turn():
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

        spin(reactor, turn)
        assert not got
        return answers

    with peer:
        yield ask


def test_files_come_one_after_the_other(ask):
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


def test_what_is_no_file_is_told(ask, root):
    assert ask(b"pipe", b"sub", b"none", b"none/", b"a/b") == [
        b"error not a file",
        b"error not a file",
        b"error No such file or directory",
        b"error No such file or directory",
        b"error Not a directory",
    ]


@pytest.mark.usefixtures("descriptors")
def test_no_descriptor_is_left(reactor, root):
    _, peer = pair(reactor, APPS["files"].start(root)())
    with peer:
        peer.sendall(b"a\nsub/deep\nlink\nsub/\nnone\nbig\nbig\n")
        for _ in range(5):
            reactor.run_once(0)
    spin(reactor, lambda: not reactor.connections())
    reactor.close()
