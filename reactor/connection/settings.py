"""Settings shared by the connections of one listener, connector or adoption."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from reactor.connection.deadlines import DeadlineMonitor
from reactor.loop.loop import Loop
from reactor.options import Limits, Timeouts

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    from reactor.tls.secure_socket import Tls

__all__ = ["Settings"]


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Settings:
    """Settings shared by the connections of one listener, connector or adoption.

    loop: the loop that drives them. reactor: the `Reactor` that has the loop.
    limits, timeouts: the user's options.
    deadline_monitor: ends them when a deadline passes.
    origin: their origin as text, for messages. listener: the listener that accepted them, or None.
    on_gone: called as `on_gone(prefix, reason)` when a connection's descriptor was closed, with the client
        prefix of its peer.
    make_tls: makes the `Tls` of a context, with its arguments but the memory BIOs, which the reactor's TLS
        connections share.
    tls: the TLS settings that they begin with; None for none.
    proxy_header: the PROXY header of the one connection that has these settings; None without one.
    """

    loop: Loop
    reactor: Any
    limits: Limits
    timeouts: Timeouts
    deadline_monitor: DeadlineMonitor
    origin: str
    listener: Any
    on_gone: Callable[[bytes | None, BaseException | None], object]
    make_tls: Callable[..., Tls]
    tls: Tls | None = None
    proxy_header: bytes | None = None
