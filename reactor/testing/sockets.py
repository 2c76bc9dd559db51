"""`MemorySocket`: a socket object over the network in memory, with all that a reactor calls on one."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

from reactor.testing.network import Endpoint, ListeningEndpoint, Network, SocketAddress, error

__all__ = ["MemorySocket", "listening_socket"]

_LINGER = struct.Struct("ii")

#: What accept(2) fails with while the connection stays in the backlog; all else takes it out.
_STAYS = frozenset(
    {errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSR}
)


class MemorySocket:
    """A stream socket whose every call goes through `network.call`, and takes a part where one may.

    end: what the network keeps of it; a test's peers use theirs directly.
    """

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, network: Network, end: Endpoint | ListeningEndpoint) -> None:
        self.end: Any = end
        self._network = network
        self._fd = network.open(self)
        self._blocks = True
        self._resets = False

    def __repr__(self) -> str:
        return f"<MemorySocket {self._fd} {self.end.sockname}>"

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, blocks: bool) -> None:
        self._blocks = blocks

    def _call(self, name: str) -> None:
        if self._fd < 0:
            self._network.complaints.append(f"{name} on a closed socket")
            raise error(errno.EBADF)
        self._network.call(name)

    def _may_block(self, name: str) -> None:
        if self._blocks:
            self._network.complaints.append(f"{name} on a socket that would block")

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

    def accept(self) -> tuple[MemorySocket, SocketAddress]:
        self._may_block("accept")
        try:
            self._call("accept")
        except OSError as exc:
            if exc.errno not in _STAYS and self.end.backlog:
                self.end.accept().reset()
            raise
        end = self.end.accept()
        return MemorySocket(self._network, end), end.peer.sockname

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR, "a reactor ends its own direction only"
        self._call("shutdown")
        self.end.shutdown()

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._network.free(fd)
        self.end.close(reset=self._resets)
        self._network.call("close")  # close(2) gives the descriptor back, whatever it returns

    # Facts and options

    def getsockname(self) -> SocketAddress:
        self._call("getsockname")
        name: SocketAddress = self.end.sockname
        return name

    def getpeername(self) -> SocketAddress:
        self._call("getpeername")
        if self.end.dead:
            raise error(errno.ENOTCONN)
        name: SocketAddress = self.end.peer.sockname
        return name

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._call("setsockopt")
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._resets = _LINGER.unpack(value) == (1, 0)

    def getsockopt(self, level: int, option: int) -> int:
        self._call("getsockopt")
        if option == socket.SO_ERROR:
            number, self.end.error = self.end.error, None
            return number or 0
        return int(option == socket.SO_ACCEPTCONN and isinstance(self.end, ListeningEndpoint))


def listening_socket(network: Network, **options: Any) -> MemorySocket:
    """Return a socket that listens on the network; the options are `ListeningEndpoint`'s."""
    return MemorySocket(network, ListeningEndpoint(network, **options))
