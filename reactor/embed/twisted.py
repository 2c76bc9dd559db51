"""In Twisted's reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactor.embed.attachment import BUDGET, Attachment
from reactor.server import Reactor

try:
    from twisted.internet.interfaces import IReadDescriptor
    from zope.interface import implementer
except ImportError as exc:
    raise ImportError(
        "reactor.embed.twisted needs Twisted: pip install 'selectors-reactor[twisted]'"
    ) from exc

__all__ = ["attach"]


def attach(reactor: Reactor, host: Any = None, *, budget: float = BUDGET) -> Attachment:
    """Let Twisted's reactor `host` drive `reactor`, on the thread of the first; None takes the installed one.

    budget: seconds of work after which the host has its turn.
    """
    if host is None:
        from twisted.internet import reactor as host

    def watch(fd: int, callback: Callable[..., None]) -> Callable[[], object]:
        descriptor = _Descriptor(fd, callback)
        host.addReader(descriptor)
        return lambda: host.removeReader(descriptor)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        call = host.callLater(delay, callback)
        return lambda: call.active() and call.cancel()

    return Attachment(reactor, budget, watch, call_later)


@implementer(IReadDescriptor)
class _Descriptor:
    """What Twisted watches."""

    def __init__(self, fd: int, callback: Callable[..., None]) -> None:
        self._fd = fd
        self._callback = callback

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        self._callback()

    def connectionLost(self, reason: object) -> None:
        """Twisted ends; the reactor does not."""

    def logPrefix(self) -> str:
        return "reactor"
