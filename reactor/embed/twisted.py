"""The reactor in Twisted's reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactor.embed.attachment import BUDGET, Attachment
from reactor.errors import missing_package
from reactor.reactor import Reactor

try:
    from twisted.internet.interfaces import IReadDescriptor
    from zope.interface import implementer
except ImportError as exc:
    raise missing_package("reactor.embed.twisted", "Twisted", "twisted") from exc

__all__ = ["attach"]


def attach(reactor: Reactor, host: Any = None, *, budget: float = BUDGET) -> Attachment:
    """Make Twisted's reactor `host` drive `reactor`, on the thread of `host`; None: the installed one.

    budget: seconds of work after which the host handles its other events.

        from twisted.internet import reactor as host
        from reactor import Reactor
        from reactor.embed.twisted import attach

        with Reactor() as reactor, attach(reactor, host):
            reactor.call_later(0.01, host.stop)
            host.run()
    """
    if host is None:
        from twisted.internet import reactor as host

    descriptor = _Descriptor(host)

    def watch(fd: int, callback: Callable[..., None]) -> Callable[[], object]:
        descriptor.watch(fd, callback)
        return descriptor.unwatch

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        call = host.callLater(delay, callback)
        return lambda: call.active() and call.cancel()

    return Attachment(reactor, budget, watch, call_later)


@implementer(IReadDescriptor)
class _Descriptor:
    """The reactor's descriptor, as Twisted watches it."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._watched = False

    def watch(self, fd: int, callback: Callable[..., None]) -> None:
        self.fileno = lambda: fd
        self.doRead = callback
        self._watched = True
        self._host.addReader(self)

    def unwatch(self) -> None:
        self._watched = False
        self._host.removeReader(self)

    def connectionLost(self, reason: object) -> None:
        # Twisted stops, or it has logged the KeyboardInterrupt of a callback and removed the reader.
        self._host.callLater(0, self._watch_again)

    def _watch_again(self) -> None:
        if self._watched:
            self._host.addReader(self)

    def logPrefix(self) -> str:
        return "reactor"
