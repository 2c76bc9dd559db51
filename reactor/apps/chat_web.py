"""The page of `chat` for browsers, by HTTP and WebSocket: the same rooms as those of the clients with lines.

A client sends lines, as telnet does. It gets JSON: {"kind": "said", "id", "at", "name", "text"}, {"kind":
"notice", "at", "text"}, with an "id" if it is of a room, and {"kind": "state", "name", "room", "guest"}.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from importlib.resources import files
from typing import Any

import attrs

from reactor.apps.chat import LINE_LIMIT, LINES_PER_TICK, Hall, reason_of
from reactor.apps.chat_audience import Client
from reactor.apps.chat_member import LOBBY, Member, is_name
from reactor.apps.chat_message import SAID, Message
from reactor.http import HTTP, Request, Response
from reactor.http.websocket import WebSocket, encode_message

__all__ = ["chat_page"]

_PAGE = files("reactor.apps").joinpath("chat.html").read_text(encoding="utf-8")


def _digest(element: str) -> str:
    """Return the source of the one inline element of that name, for the policy (CSP 3, 2.3.1)."""
    content = re.findall(rf"<{element}>(.*?)</{element}>", _PAGE, re.DOTALL)
    assert len(content) == 1
    return f"'sha256-{base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()}'"


_POLICY = (
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_RESPONSE = Response(
    200,
    _PAGE,
    content_type="text/html; charset=utf-8",
    headers={
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    },
)


def chat_page(hall: Hall) -> HTTP:
    """Return the factory of the protocols that serve the page of `hall`."""
    return HTTP({"/": lambda request: _RESPONSE, "/socket": _Door(hall)})


@attrs.frozen(eq=False)
class _Door:
    """The handler of the pages' WebSockets."""

    _hall: Hall

    def __call__(self, request: Request) -> None:
        room = request.query.get("room", [LOBBY])[0]
        visitor = _Visitor(self._hall, request.websocket(max_message=LINE_LIMIT))
        self._hall.greet(visitor.member, room if is_name(room) else LOBBY)

    def take_over(self, socket: WebSocket, state: bytes) -> None:
        """Go on with a member of another process."""
        self._hall.go_on(_Visitor(self._hall, socket).member, state)


class _Visitor:
    """A member whose client is a page."""

    __slots__ = ("_hall", "_lines", "member", "socket")

    def __init__(self, hall: Hall, socket: WebSocket) -> None:
        self._hall = hall
        self.socket = socket
        self.member = hall.admit(socket.connection, socket.write, _PAGES)
        self._lines = 0
        socket.on_message = self.received
        socket.on_close = self.closed
        socket.on_hand_over = self.member.freeze
        socket.on_kept = self.member.thaw

    def received(self, message: str | bytes) -> None:
        """Handle a line; the other members have their turn after a few."""
        if not isinstance(message, str):
            self.socket.close(1003, "a line is text")
            return
        self._lines += 1
        if self._lines % LINES_PER_TICK == 0:
            self.member.hold()
            self.socket.connection.reactor.call_soon(self.member.release)
        self.member.handle(" ".join(message.splitlines()))

    def closed(self, exc: BaseException | None) -> None:
        """Remove the member, and announce it, unless another process goes on with it."""
        self._hall.remove(self.member, reason_of(exc))


def _encode(what: Message | str) -> bytes:
    fields: dict[str, Any]
    if isinstance(what, str):
        fields = {"kind": "notice", "at": time.time(), "text": what}
    else:
        fields = {"kind": what.kind, "at": what.at, "name": what.name, "text": what.text}
        if what.kind != SAID:
            fields = {"kind": "notice", "at": what.at, "text": what.notice}
        fields["id"] = f"{what.node}.{what.number}.{what.at}"
    return _frame(fields)


def _encode_past(messages: list[Message]) -> bytes:
    return b"".join(map(_encode, messages))


def _encode_state(member: Member) -> bytes:
    guest = not member.has_chosen
    return _frame({"kind": "state", "name": member.name, "room": member.room, "guest": guest})


def _frame(fields: dict[str, Any]) -> bytes:
    return encode_message(json.dumps(fields, ensure_ascii=False))


_PAGES = Client(_encode, _encode_past, _encode_state)
