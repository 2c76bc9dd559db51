"""What a reactor gets from the operating system, and that all of it comes through here."""

import ast
import socket
from pathlib import Path

import pytest

import reactor
from reactor import Address
from reactor.loop.system import KERNEL
from reactor.options import Reconnect

MAKERS = {"socket", "socketpair", "getaddrinfo", "create_connection", "create_server", "has_dualstack_ipv6"}

#: Modules that a reactor can do without, or that are asked by `System`, and what they make.
ELSEWHERE = {
    "address": {"getaddrinfo"},
    "asyncore": {"socket"},  # a dispatcher makes its own
    "binding": {"socket"},  # one that was inherited, and the probe of another's Unix socket
    "pool": {"socket"},  # a worker's, of a descriptor that is there
    "system": MAKERS,
    "wakeup": {"socketpair"},  # a host's thread has one without a reactor
}


def made_in(path):
    """Return the functions of the socket module that a module calls to make or find something."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {
        call.attr
        for call in calls
        if isinstance(call, ast.Attribute)
        and isinstance(call.value, ast.Name)
        and call.value.id == "socket"
        and call.attr in MAKERS
    }


def modules():
    """Return the files of the core and of what is built on it; the kit for tests has sockets of its own."""
    root = Path(reactor.__file__).parent
    return [path for path in sorted(root.rglob("*.py")) if "testing" not in path.relative_to(root).parts]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_nothing_is_made_past_the_system(path):
    assert made_in(path) <= ELSEWHERE.get(path.stem, set())


@pytest.mark.usefixtures("descriptors")
def test_kernel_makes_sockets_that_are_closed_again():
    with KERNEL.new_socket(socket.AF_INET) as sock:
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    ours, theirs = KERNEL.socketpair()
    with ours, theirs:
        ours.send(b"x")
        assert theirs.recv(1) == b"x"
    KERNEL.reserve().close()


def test_listening_everywhere_takes_one_socket_for_both_families(monkeypatch):
    everywhere = Address.parse(":80")
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    assert KERNEL.resolve(everywhere, passive=True) == [(socket.AF_INET6, ("::", 80))]
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert KERNEL.resolve(everywhere, passive=True) == [(socket.AF_INET, ("", 80))]
    assert KERNEL.resolve(Address.parse("127.0.0.1:80")) == [(socket.AF_INET, ("127.0.0.1", 80))]


def test_kernel_takes_what_it_is_given():
    reconnect = Reconnect()
    assert KERNEL.jitter(reconnect) is reconnect
    KERNEL.check(3)
