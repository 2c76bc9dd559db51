"""Binding: from an address to listening sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from reactor.address import Address
from reactor.errors import ListenError
from reactor.loop.system import KERNEL, System

__all__ = [
    "SocketOption", "UnixPath", "adopt_listening_socket", "bind", "cannot_listen", "clear_stale", "explain",
    "set_shared_options",
]  # fmt: skip

#: The level, the option and its value, as for setsockopt(2).
SocketOption = tuple[int, int, int | bytes]

# What helps if an address can't be bound, whatever is to use it.
_HINTS = {
    errno.EACCES: "choose a port above 1023 or a path that you may write to",
    errno.EADDRNOTAVAIL: "choose an address of this machine",
    errno.ENOENT: "make its directory first",
}

# Ports tried for a name with several addresses: one that is free at the first may be in use at another.
_PORTS = 10


class UnixPath:
    """The file of a listening Unix socket, removed with it if it is still the same file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._made = _identity(path)

    def remove(self) -> None:
        """Remove the file, unless there is another in its place."""
        if self._made is not None and _identity(self._path) == self._made:
            os.unlink(self._path)


def bind(
    address: Address,
    *,
    backlog: int,
    reuse_port: bool,
    options: Iterable[SocketOption],
    system: System = KERNEL,
) -> list[socket.socket]:
    """Return a non-blocking listening socket for each address that `address` resolves to.

    backlog: connections that the kernel holds until they are accepted.
    options: set before bind(2). The sockets of a name with several addresses have one port.
    Raises ListenError with the address and the cause in one line; nothing is left open then.
    """
    try:
        if address.fd is not None:
            system.check(address)
            return [_inherited(address.fd)]
        options = list(options)
        places = system.resolve(address, passive=True)
        for _ in range(_PORTS - 1 if address.port == 0 and len(places) > 1 else 0):
            try:
                return _bind_all(places, address, backlog, reuse_port, options, system)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
        return _bind_all(places, address, backlog, reuse_port, options, system)
    except OSError as exc:
        raise cannot_listen(address, exc) from exc


def _bind_all(
    places: Iterable[tuple[int, Any]],
    address: Address,
    backlog: int,
    reuse_port: bool,
    options: list[SocketOption],
    system: System,
) -> list[socket.socket]:
    """Bind a socket for each of `places`; on port 0 the kernel picks one for the first, and all have that."""
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, place in places:
            sockaddr = place
            if address.port == 0 and sockets:
                sockaddr = (place[0], sockets[0].getsockname()[1], *place[2:])
            sock = opened.enter_context(
                _listening(system.new_listening_socket(family), address, reuse_port, options)
            )
            if address.path is not None and system.has_files:
                clear_stale(address.path)
            sock.bind(sockaddr)
            sock.listen(backlog)
            sockets.append(sock)
        opened.pop_all()
        return sockets


def cannot_listen(address: Address, exc: OSError) -> ListenError:
    """Return the error that says, in one line, why `address` can't be listened on and what helps."""
    hints = {
        errno.EADDRINUSE: "stop what listens there, or choose another",
        errno.EBADF: "this process inherited no descriptor of that number",
    }
    return explain(f"cannot listen on {address}", exc, hints)


def explain(problem: str, exc: OSError, hints: Mapping[int, str]) -> ListenError:
    """Return the error that says `problem`, its cause, and what helps. hints: further ones, by errno."""
    hint = {**_HINTS, **hints}.get(exc.errno or 0)
    cause = exc.strerror or str(exc)
    return ListenError(exc.errno, f"{problem}: {cause}" + (f": {hint}" if hint else ""))


def _listening(
    sock: socket.socket, address: Address, reuse_port: bool, options: list[SocketOption]
) -> socket.socket:
    try:
        sock.setblocking(False)
        if address.path is None:
            _set_inet_options(sock, dual_stack=address.host == "", reuse_port=reuse_port)
        for level, option, value in options:
            sock.setsockopt(level, option, value)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_inet_options(sock: socket.socket, *, dual_stack: bool, reuse_port: bool) -> None:
    if sys.platform == "win32":  # there SO_REUSEADDR would let two programs share a port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    set_shared_options(sock, dual_stack=dual_stack, reuse_port=reuse_port)
    # Accepted sockets inherit it, which saves a system call for each: tcp(7).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def set_shared_options(sock: socket.socket, *, dual_stack: bool, reuse_port: bool) -> None:
    """Set the options that sockets of TCP and of UDP have for bind(2). Raises OSError."""
    if reuse_port:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise OSError(errno.ENOTSUP, "this platform has no SO_REUSEPORT: leave reuse_port out")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)


def adopt_listening_socket(sock: socket.socket) -> socket.socket:
    """Return a listening socket that the caller made, set to not block. Raises ListenError if it is none."""
    try:
        _check_listening(sock)
        sock.setblocking(False)
    except OSError as exc:
        raise ListenError(exc.errno, f"cannot listen on {sock!r}: {exc.strerror or exc}") from exc
    return sock


def _inherited(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    try:
        _check_listening(sock)
        sock.setblocking(False)
        sock.set_inheritable(False)
    except BaseException:
        sock.detach()
        raise
    return sock


def _check_listening(sock: socket.socket) -> None:
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "it is no listening stream socket")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def clear_stale(path: str, kind: int = socket.SOCK_STREAM) -> None:
    """Remove the socket file that a dead process left. A live one, or another kind of file, is an error.

    kind: the type of the socket that is to be bound there. Raises OSError.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "a directory is there: name a socket in it, as unix:/directory/name")
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is no socket is there: move it away")
    if _is_live(path, kind):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _is_live(path: str, kind: int) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # its accept queue is full: a process has it
        except OSError as exc:
            if exc.errno not in {errno.EPROTOTYPE, errno.EPERM}:
                raise
            return True  # a socket of another type, or a datagram socket that is connected to another one
    return True
