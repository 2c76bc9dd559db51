"""`MemorySocket`: a socket of the network in memory, with the methods that a reactor calls."""

from __future__ import annotations

import errno
import socket
import struct
from abc import ABC, abstractmethod
from typing import Any, Self

from reactor.testing.endpoint import Endpoint, ListeningEndpoint
from reactor.testing.host import Host, error
from reactor.testing.network import Network

__all__ = ["AnySocket", "MemorySocket", "listening_socket", "new_socket"]

_LINGER = struct.Struct("ii")

#: Errors of accept(2) that leave the connection in the accept queue; all others remove it.
_STAYS = frozenset(
    {errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSR}
)

_UNNAMED: dict[int, tuple[Any, ...]] = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0, 0, 0)}  # noqa: S104

_REUSE_PORT = (socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", None))
_V6_ONLY = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


class AnySocket(ABC):
    """The base class of sockets in memory: a descriptor, a kernel's side, options, counted calls.

    end: the kernel's side. family: the address family.
    """

    proto = 0

    def __init__(self, network: Network, end: Any, family: int) -> None:
        self.end: Any = end
        self.family = family
        self.network = network
        self._fd = network.open(self)
        self._options: dict[tuple[int, int | None], Any] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._fd} {self.end.sockname}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    def fileno(self) -> int:
        return self._fd

    def getsockname(self) -> Any:
        self._call("getsockname")
        return self.end.sockname

    def _call(self, name: str) -> None:
        if self._fd < 0:
            self.network.complaints.append(f"{name} on a closed socket")
            raise error(errno.EBADF)
        self.network.call(name)


class MemorySocket(AnySocket):
    """A stream socket in memory; its calls can fail and be partial, as the network decides.

    end: its endpoint, which a test's peer may use directly. host: its host; None for a socket that is
        connected or listens already. family: the address family.
    """

    type = socket.SOCK_STREAM

    def __init__(
        self,
        network: Network,
        end: Endpoint | ListeningEndpoint,
        host: Host | None = None,
        family: int = socket.AF_INET,
    ) -> None:
        super().__init__(network, end, family)
        self._host = host
        self._blocks = True

    def setblocking(self, blocks: bool) -> None:
        self._blocks = blocks

    def _may_block(self, name: str) -> None:
        if self._blocks:
            self.network.complaints.append(f"{name} on a socket that would block")

    # Bytes

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._may_block("recv")
        self._call("recv")
        return self.end.peek(size) if flags & socket.MSG_PEEK else self._receive(size)

    def recv_into(self, buffer: Any) -> int:
        self._may_block("recv_into")
        self._call("recv_into")
        view = memoryview(buffer)
        data = self._receive(len(view))
        view[: len(data)] = data
        return len(data)

    def _receive(self, size: int) -> bytes:
        data: bytes = self.end.recv(self.end.portion(min(size, max(1, len(self.end.receiving)))))
        return data

    def send(self, data: Any) -> int:
        self._may_block("send")
        self._call("send")
        return self._transmit(data)

    def sendmsg(self, pieces: list[Any]) -> int:
        self._may_block("sendmsg")
        self._call("sendmsg")
        return self._transmit(b"".join(pieces))

    def _transmit(self, data: Any) -> int:
        sent: int = self.end.send(memoryview(data)[: self.end.portion(len(data))])
        return sent

    # Connections

    def bind(self, where: Any) -> None:
        self._call("bind")
        assert self._host is not None
        shared, both = bool(self._options.get(_REUSE_PORT)), self._takes_both()
        self.end.sockname = self._host.bind(self.family, where, shared=shared, both=both)

    def listen(self, backlog: int) -> None:
        self._call("listen")
        assert self._host is not None
        self.end = ListeningEndpoint(
            self.network,
            self.end.sockname,
            self.network.buffers,
            limit=backlog + 1,  # as Linux has it: listen(2)
            shared=bool(self._options.get(_REUSE_PORT)),
            both=self._takes_both(),
        )
        self._host.listen(self.end)

    def _takes_both(self) -> bool:
        return self.family == socket.AF_INET6 and not self._options.get(_V6_ONLY, 0)

    def connect_ex(self, where: Any) -> int:
        self._may_block("connect")
        try:
            self._call("connect")
        except OSError as exc:
            return exc.errno or errno.EIO
        assert self._host is not None
        return self._host.connect(self.end, where)

    def accept(self) -> tuple[MemorySocket, Any]:
        self._may_block("accept")
        try:
            self._call("accept")
        except OSError as exc:
            if exc.errno not in _STAYS and self.end.backlog:
                self.end.accept().reset()
            raise
        end = self.end.accept()
        return MemorySocket(self.network, end, self._host, self.family), end.peername

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR, "a reactor ends its own direction only"
        self._call("shutdown")
        self.end.shutdown()

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self.network.free(fd)
        linger = self._options.get((socket.SOL_SOCKET, socket.SO_LINGER), b"")
        self.end.close(reset=linger == _LINGER.pack(1, 0))
        self.network.call("close")  # close(2) gives the descriptor back, whatever it returns

    # Facts and options

    def getpeername(self) -> Any:
        self._call("getpeername")
        if self.end.dead or self.end.connecting or self.end.peer is None:
            raise error(errno.ENOTCONN)
        return self.end.peername

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._call("setsockopt")
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int) -> int:
        self._call("getsockopt")
        if option == socket.SO_ERROR:
            number, self.end.error = self.end.error, None
            return number or 0
        return int(option == socket.SO_ACCEPTCONN and isinstance(self.end, ListeningEndpoint))


def listening_socket(network: Network, **options: Any) -> MemorySocket:
    """Return a socket that listens on the network; the options are `ListeningEndpoint`'s."""
    return MemorySocket(network, ListeningEndpoint(network, **options))


def new_socket(network: Network, host: Host, family: int) -> MemorySocket:
    """Return a socket of `host` that is neither bound nor connected."""
    network.call("socket")
    return MemorySocket(network, Endpoint(network, _UNNAMED.get(family, ""), *network.buffers), host, family)
