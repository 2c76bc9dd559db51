"""Settings shared by the connections of one listener, connector or adoption."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from reactor.connection.deadlines import DeadlineMonitor
from reactor.loop.loop import Loop
from reactor.options import Limits, Timeouts

if TYPE_CHECKING:  # a program without TLS does not wait for the import of ssl
    from reactor.tls.secure_socket import Bios, Tls

__all__ = ["Settings"]


@attrs.frozen(eq=False, kw_only=True)
class Settings:
    """Settings shared by the connections of one listener, connector or adoption.

    loop: drives them. reactor: the `Reactor` of users that has the loop.
    limits, timeouts: as the user gave them.
    monitor: ends them when a deadline has passed.
    origin: where they come from, in words. listener: the one that accepted them, or None.
    on_gone: called as `on_gone(prefix, reason)` when a connection's descriptor has been closed, with what
        `client_prefix` returns for its peer.
    bios: the pair of memory BIOs of the reactor's TLS connections.
    tls: how they begin with TLS; None: in clear.
    """

    loop: Loop
    reactor: Any
    limits: Limits
    timeouts: Timeouts
    monitor: DeadlineMonitor
    origin: str
    listener: Any
    on_gone: Callable[[bytes | None, BaseException | None], object]
    bios: Bios
    tls: Tls | None = None
