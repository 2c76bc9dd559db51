"""Debug mode: an endpoint that logs warnings for wrong calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from reactor.datagrams.endpoint import Endpoint
from reactor.loop.log import caller, logger

__all__ = ["DebugEndpoint"]


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: DebugEndpoint, *args: Any, **kwargs: Any) -> Any:
        self._loop.check_thread(f"Endpoint.{method.__name__}")
        return method(self, *args, **kwargs)

    return call


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
