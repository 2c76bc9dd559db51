"""`ScriptedSocket`: a socket whose next calls have results that the test chose."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Self

from reactor.errors import UsageError

__all__ = ["Result", "ScriptedSocket"]

#: The result of one call: an exception to raise, a limit of bytes to pass on, or None for the real call.
Result = BaseException | type[BaseException] | int | None

#: The methods that pass bytes on, and can be limited to a number of them.
_OF_BYTES = frozenset({"recv", "recv_into", "send", "sendmsg"})

_SCRIPTABLE = _OF_BYTES | {
    "accept", "close", "getpeername", "getsockopt", "recvfrom", "recvmsg", "sendto", "setsockopt", "shutdown",
}  # fmt: skip


class ScriptedSocket:
    """A socket whose next calls have scripted results: partial sends and receives, EAGAIN, errors.

    It wraps a real socket, or one in memory, for `Reactor.adopt`, `listen` and `bind_datagram`:

        import socket
        from reactor import Protocol, Reactor
        from reactor.testing import ScriptedSocket

        ours, theirs = socket.socketpair()
        sock = ScriptedSocket(ours, send=[3, BlockingIOError])
        with theirs, Reactor() as reactor:
            reactor.adopt(sock, Protocol).write(b"hello")
            assert theirs.recv(100) == b"hel"
            reactor.run_once(1)  # finds the kernel's buffer full
            reactor.run_once(1)
            assert theirs.recv(100) == b"lo"


    sock: the socket that is called; afterwards the attribute `sock`. script: the results of the next calls of
        each method, by its name, in order. It is any iterable, and may be endless, as `itertools.repeat` is.
        Each result is one of: an exception or a class of them, which is raised instead of the call; a number,
        the limit of bytes that this call passes on; None, the real call. When they are used up, calls are
        real.

    Methods with a script: accept, close, getpeername, getsockopt, recv, recv_into, recvfrom, recvmsg, send,
    sendmsg, sendto, setsockopt, shutdown. `calls` keeps the names of those that were called, in order. All
    else is the real socket's; `os.sendfile`, which takes its descriptor, goes past the script.

    Raises UsageError for a script of another method, and in the call for a number where no bytes pass.
    """

    def __init__(self, sock: socket.socket | Any, **script: Iterable[Result]) -> None:
        self.sock = sock
        self.calls: list[str] = []
        self._script: dict[str, Iterator[Result]] = {}
        self.add(**script)

    def add(self, **script: Iterable[Result]) -> None:
        """Append results to the script. Raises UsageError for a method that can't have one."""
        for name in script:
            if name not in _SCRIPTABLE:
                raise UsageError(f"{name} can't be scripted; {', '.join(sorted(_SCRIPTABLE))} can")
        for name, results in script.items():
            self._script[name] = itertools.chain(self._script.get(name, ()), results)

    def next_result(self, name: str) -> int | None:
        """Record a call of the method `name`; return the limit of bytes that it passes on, or None.

        Raises the exception that the script has for it. For a script across methods, override this.
        """
        self.calls.append(name)
        result = next(self._script.get(name, iter(())), None)
        if isinstance(result, BaseException):
            raise result.with_traceback(None)  # else one raised repeatedly would keep all frames
        if isinstance(result, type):
            raise result
        if result is not None and name not in _OF_BYTES:
            raise UsageError(f"{name} passes no bytes on: its script has exceptions and None, not {result}")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: Any, *flags: int) -> int:
        limit = self.next_result("send")
        sent: int = self.sock.send(memoryview(data)[:limit], *flags)
        return sent

    def sendmsg(self, pieces: Iterable[Any], *more: Any) -> int:
        limit = self.next_result("sendmsg")
        if limit is None:
            sent: int = self.sock.sendmsg(pieces, *more)
        else:
            sent = self.sock.send(b"".join(pieces)[:limit])
        return sent

    def sendto(self, data: Any, address: Any) -> int:
        self.next_result("sendto")
        sent: int = self.sock.sendto(data, address)
        return sent

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        self.next_result("recvfrom")
        received: tuple[bytes, Any] = self.sock.recvfrom(size)
        return received

    def recvmsg(self, *args: int) -> tuple[bytes, list[Any], int, Any]:
        self.next_result("recvmsg")
        received: tuple[bytes, list[Any], int, Any] = self.sock.recvmsg(*args)
        return received

    def recv(self, size: int, *flags: int) -> bytes:
        limit = self.next_result("recv")
        data: bytes = self.sock.recv(size if limit is None else min(size, limit), *flags)
        return data

    def recv_into(self, buffer: Any) -> int:
        limit = self.next_result("recv_into")
        received: int = self.sock.recv_into(memoryview(buffer).cast("B")[:limit])
        return received

    def accept(self) -> tuple[Any, Any]:
        self.next_result("accept")
        accepted: tuple[Any, Any] = self.sock.accept()
        return accepted

    def getpeername(self) -> Any:
        self.next_result("getpeername")
        return self.sock.getpeername()

    def getsockopt(self, *args: int) -> Any:
        self.next_result("getsockopt")
        return self.sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self.next_result("setsockopt")
        self.sock.setsockopt(*args)

    def shutdown(self, how: int) -> None:
        self.next_result("shutdown")
        self.sock.shutdown(how)

    def close(self) -> None:
        self.next_result("close")
        self.sock.close()
