"""Debug mode: an endpoint that logs warnings for wrong calls."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any

from reactor.datagrams.endpoint import Endpoint
from reactor.loop.log import caller, checked, logger

__all__ = ["DebugEndpoint"]


_checked = partial(checked, loop_of=attrgetter("_loop"))


class DebugEndpoint(Endpoint):
    """An endpoint that checks each call's thread, and logs a warning for a datagram after its end."""

    __slots__ = ()

    close = _checked(Endpoint.close)
    abort = _checked(Endpoint.abort)
    set_protocol = _checked(Endpoint.set_protocol)
    join = _checked(Endpoint.join)
    leave = _checked(Endpoint.leave)

    def send(
        self, data: bytes | bytearray | memoryview, address: Any = None, source: str | None = None
    ) -> bool:
        """Send as `Endpoint.send` does."""
        self._loop.check_thread("Endpoint.send")
        ended = self.is_closing()
        sent = super().send(data, address, source)
        if ended:
            logger().warning("%d bytes sent by %s after its end, at %s", len(data), self, caller())
        return sent
