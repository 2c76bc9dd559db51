"""`System`: the kernel's sockets, names and descriptors; no other module makes them."""

import ast
import socket
from pathlib import Path

import pytest

import reactor
from reactor import Address
from reactor.loop.system import KERNEL
from reactor.options import Reconnect

MAKERS = {"socket", "socketpair", "getaddrinfo", "create_connection", "create_server", "has_dualstack_ipv6"}

#: Modules that are not part of a reactor, or that `System` calls, and what they make.
ELSEWHERE = {
    "address": {"getaddrinfo"},
    "asyncore": {"socket"},  # a dispatcher makes its own
    "binding": {"socket"},  # for an inherited descriptor, and to probe a Unix socket
    "opening": {"socket"},  # for an inherited descriptor
    "channel": {"socket", "socketpair"},  # between the processes of a deployment, as the next three
    "supervisor": {"socket", "socketpair"},
    "systemd": {"socket"},
    "worker": {"socket"},
    "pool": {"socket"},  # a worker's socket object for an existing descriptor
    "system": MAKERS,
    "wakeup": {"socketpair"},  # the thread of a guest has one without a reactor
}


def made_in(path):
    """Return the functions of the socket module by which a module makes sockets or looks up names."""
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
    """Return the files of the package but for `testing` and `deploy`, whose sockets are not a reactor's."""
    root = Path(reactor.__file__).parent
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in {"testing", "deploy"}
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_sockets_are_made_by_the_system_only(path):
    assert made_in(path) <= ELSEWHERE.get(path.stem, set())


@pytest.mark.usefixtures("descriptors")
def test_kernel_makes_sockets():
    with KERNEL.new_socket(socket.AF_INET) as sock:
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    with KERNEL.new_listening_socket(socket.AF_INET6) as sock, sock.dup() as other:
        assert (sock.family, sock.type) == (other.family, other.type) == (socket.AF_INET6, socket.SOCK_STREAM)
    ours, theirs = KERNEL.socketpair()
    with ours, theirs:
        ours.send(b"x")
        assert theirs.recv(1) == b"x"
    KERNEL.reserve().close()


def test_empty_host_resolves_to_one_dual_stack_socket(monkeypatch):
    everywhere = Address.parse(":80")
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    assert KERNEL.resolve(everywhere, passive=True) == [(socket.AF_INET6, ("::", 80))]
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert KERNEL.resolve(everywhere, passive=True) == [(socket.AF_INET, ("", 80))]
    assert KERNEL.resolve(Address.parse("127.0.0.1:80")) == [(socket.AF_INET, ("127.0.0.1", 80))]


def test_kernel_accepts_sockets_and_reconnect_options_unchanged():
    reconnect = Reconnect()
    assert KERNEL.jitter(reconnect) is reconnect
    KERNEL.check(3)
