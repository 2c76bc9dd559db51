"""`Link`: a connection to the broker that speaks RESP, the protocol of Redis: commands out, replies in.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from reactor.connection.connection import Connection
from reactor.errors import BrokerError, missing_package
from reactor.protocol import Protocol

try:
    import hiredis
except ImportError as exc:
    raise missing_package("RedisBackplane", "hiredis", "redis") from exc

__all__ = ["Link", "Refusable", "ReplyHandler"]

#: Called with the reply to a command: bytes, a number, None, or a list of them.
ReplyHandler = Callable[[Any], object]

_NOTHING = object()


@attrs.frozen
class Refusable:
    """The handler of a reply to a command that the broker may refuse; it is called with None then."""

    handler: ReplyHandler

    def __call__(self, reply: Any) -> None:
        """Handle a reply."""
        self.handler(reply)


class Link(Protocol):
    """A connection to the broker.

    on_made, on_lost: called with the link, when it is connected, and when it has ended, with the reason.
    on_push: called with what comes without having been asked for: a message, or the confirmation of a
        subscription. Replies come in the order of the commands, and before the first of those.
    on_resumed: called when what was written has left, after `writable` was False.
    may_end: called in a drain; returns whether the connection may be closed.
    """

    __slots__ = ("_may_end", "_on_lost", "_on_made", "_on_push", "_on_resumed", "_reader", "_replies",
                 "connection", "writable")  # fmt: skip

    def __init__(
        self,
        *,
        on_made: Callable[[Link], object],
        on_lost: Callable[[Link, BaseException | None], object],
        on_push: Callable[[list[Any]], object] | None = None,
        on_resumed: Callable[[], object] = lambda: None,
        may_end: Callable[[], bool],
    ) -> None:
        self._on_made = on_made
        self._on_lost = on_lost
        self._on_push = on_push
        self._on_resumed = on_resumed
        self._may_end = may_end
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._replies: deque[ReplyHandler] = deque()
        self.writable = True

    def connection_made(self, connection: Connection) -> None:
        """Begin."""
        self.connection = connection
        self._on_made(self)

    def send(self, handler: ReplyHandler | None, *command: str | bytes | int) -> None:
        """Send a command. handler: called with its reply; None where none comes, or it is a push."""
        if handler is not None:
            self._replies.append(handler)
        self.connection.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # of any length

    def data_received(self, data: bytes) -> None:
        """Pass on the replies that are complete. An error reply, or what is no RESP, ends the connection."""
        reader, push = self._reader, self._on_push
        try:
            reader.feed(data)
            while not self.connection.is_closing():
                reply = reader.gets()
                if reply is _NOTHING:
                    return
                if isinstance(reply, hiredis.ReplyError):
                    self._refused(reply)
                elif self._replies:
                    self._replies.popleft()(reply)
                elif push is not None and isinstance(reply, list):
                    push(reply)
                else:
                    raise BrokerError("the broker has answered without being asked")
        except (hiredis.ProtocolError, ValueError) as exc:
            self.connection.abort(BrokerError(f"the broker does not speak RESP as expected: {exc}"))
        except BrokerError as exc:
            self.connection.abort(exc)

    def _refused(self, error: hiredis.ReplyError) -> None:
        handler = self._replies.popleft() if self._replies else None
        if not isinstance(handler, Refusable):
            raise BrokerError(f"the broker has answered: {error}")
        handler(None)

    def pause_writing(self) -> None:
        """Note that the broker does not keep up."""
        self.writable = False

    def resume_writing(self) -> None:
        """Note that it does again."""
        self.writable = True
        self._on_resumed()

    def draining(self) -> bool:
        """Return whether the connection is still needed."""
        return not self._may_end()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Pass the reason on."""
        self._replies.clear()
        self._on_lost(self, exc)
