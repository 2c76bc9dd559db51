"""Opening datagram sockets: from an address to a socket that is bound or connected."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from reactor.address import Address
from reactor.datagrams.control import ask_for_info, enable_gro, enable_gso
from reactor.errors import AddressError, ConnectError, ListenError
from reactor.listening.binding import SocketOption, UnixPath, clear_stale, explain, set_shared_options
from reactor.loop.system import System

__all__ = ["Opened", "SocketSettings", "adopt_datagram_socket", "adopt_shared", "bind_first", "connect_first"]


@attrs.frozen(kw_only=True)
class SocketSettings:
    """Settings of a datagram socket: the arguments of `Reactor.bind_datagram` by the same names."""

    reuse_port: bool = False
    broadcast: bool = False
    ttl: int | None = None
    info: bool = False
    gro: bool = False
    gso: bool = False
    options: tuple[SocketOption, ...] = ()

    def __attrs_post_init__(self) -> None:
        ttl = self.ttl
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int) or not 0 < ttl < 256):
            raise ValueError(f"ttl must be a number of hops, 1 to 255, not {ttl!r}")

    def apply(self, sock: socket.socket, *, dual_stack: bool = False) -> None:
        """Set everything on `sock`, which is not bound yet.

        Raises OSError, and UsageError for what this platform or kind of socket does not have.
        """
        sock.setblocking(False)
        set_shared_options(sock, dual_stack=dual_stack, reuse_port=self.reuse_port)
        self.apply_to_bound(sock)

    def apply_to_bound(self, sock: socket.socket) -> None:
        """Set on `sock` what can be set on one that is bound already. Raises as `apply`."""
        if self.broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if self.ttl is not None:
            _set_ttl(sock, self.ttl)
        for level, option, value in self.options:
            sock.setsockopt(level, option, value)
        if self.info:
            ask_for_info(sock)
        if self.gro:
            enable_gro(sock)
        if self.gso:
            enable_gso(sock)


@attrs.frozen
class Opened:
    """An open socket, the file to be removed with it, and the address that it is connected to, or None.

    given: whether it is the caller's as long as it is not in use. shared: whether other processes have it.
    """

    sock: socket.socket
    path: UnixPath | None = None
    peer: Any = None
    given: bool = False
    shared: bool = False


def bind_first(address: Address, settings: SocketSettings, system: System) -> Opened:
    """Return a socket bound to `address`: to the first one of a name that it can be bound to.

    Raises ListenError with the address and the cause in one line; nothing is left open then.
    """
    try:
        if address.fd is not None:
            system.check(address)
            return adopt_datagram_socket(_inherited(address.fd), settings, owned=True)
        places = system.resolve(address, passive=True)
        return _first(places, lambda family, place: _bound(address, family, place, settings, system))
    except ListenError:
        raise  # of `adopt_datagram_socket`
    except OSError as exc:
        raise _cannot("bind", address, exc) from exc


def connect_first(
    address: Address,
    places: Iterable[tuple[int, Any]],
    local_address: Address | None,
    settings: SocketSettings,
    system: System,
) -> Opened:
    """Return a socket connected to the first of `places` that there is a route to.

    address: what they were resolved from. local_address: what it is bound to before.
    Raises ConnectError with the address and the cause in one line; nothing is left open then.
    """
    try:
        return _first(
            places, lambda family, place: _connected(local_address, family, place, settings, system)
        )
    except OSError as exc:
        cause = exc.strerror or str(exc)
        raise ConnectError(f"cannot connect to {address}: {cause}", ((str(address), exc),)) from exc


def adopt_datagram_socket(sock: Any, settings: SocketSettings, *, owned: bool = False) -> Opened:
    """Return a datagram socket that the caller made, set to not block. Raises ListenError if it is none.

    owned: close it if that fails.
    """
    try:
        if sock.type != socket.SOCK_DGRAM:
            raise OSError(errno.EINVAL, "it is no datagram socket")
        sock.setblocking(False)
        settings.apply_to_bound(sock)
        return Opened(sock, peer=_peer_of(sock), given=not owned)
    except BaseException as exc:
        if owned:
            sock.detach()  # the descriptor stays the caller's
        if isinstance(exc, OSError):
            raise _cannot("use", sock, exc) from exc
        raise


def adopt_shared(sock: socket.socket, settings: SocketSettings) -> Opened:
    """Return a bound socket that other processes have, too; its options are set. Raises as `apply`."""
    try:
        opened = adopt_datagram_socket(sock, attrs.evolve(settings, options=()))
        return attrs.evolve(opened, given=False, shared=True)
    except BaseException:
        sock.close()
        raise


def _first(places: Iterable[tuple[int, Any]], open_: Callable[[int, Any], Opened]) -> Opened:
    problem = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, place in places:
        try:
            return open_(family, place)
        except OSError as exc:
            problem = exc
    raise problem


def _bound(address: Address, family: int, place: Any, settings: SocketSettings, system: System) -> Opened:
    sock = system.new_datagram_socket(family)
    try:
        settings.apply(sock, dual_stack=address.host == "")
        return Opened(sock, _bind(sock, address, place, system))
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, address: Address, place: Any, system: System) -> UnixPath | None:
    if address.path is None or not system.has_files:
        sock.bind(place)
        return None
    clear_stale(address.path, socket.SOCK_DGRAM)
    sock.bind(place)
    return UnixPath(address.path)


def _connected(
    local_address: Address | None, family: int, place: Any, settings: SocketSettings, system: System
) -> Opened:
    sock, path = system.new_datagram_socket(family), None
    try:
        settings.apply(sock)
        if local_address is not None:
            own = next((own for kind, own in system.resolve(local_address) if kind == family), None)
            if own is None:
                raise AddressError(f"local_address {local_address} is of another family than the peer's")
            path = _bind(sock, local_address, own, system)
        sock.connect(place)
        return Opened(sock, path, _peer_of(sock))
    except BaseException:
        sock.close()
        if path is not None:
            path.remove()
        raise


def _peer_of(sock: Any) -> Any:
    try:
        return sock.getpeername()
    except OSError:
        return None


def _inherited(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock


def _set_ttl(sock: socket.socket, ttl: int) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        if sys.platform != "linux":
            return  # elsewhere IPv4's options are not those of an IPv6 socket
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)


def _cannot(do: str, what: object, exc: OSError) -> ListenError:
    """Return the error that says, in one line, why `what` can't be bound or used, and what helps."""
    hints = {errno.EADDRINUSE: "stop what is bound there, or choose another"}
    return explain(f"cannot {do} {what}", exc, hints)
