"""The reactor in GLib's main loop, and so in GTK's, through PyGObject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactor.embed.attachment import BUDGET, Attachment
from reactor.errors import missing_package
from reactor.reactor import Reactor

try:
    from gi.repository import GLib
except ImportError as exc:
    raise missing_package("reactor.embed.glib", "PyGObject", "glib") from exc

__all__ = ["attach"]


def attach(reactor: Reactor, *, budget: float = BUDGET) -> Attachment:
    """Make the main loop of GLib's default context drive `reactor`, on the thread of that loop.

    budget: seconds of work after which the main loop handles its other events.

        from gi.repository import GLib
        from reactor import Reactor
        from reactor.embed.glib import attach

        host = GLib.MainLoop()
        with Reactor() as reactor, attach(reactor):
            reactor.call_later(0.01, host.quit)
            host.run()
    """

    def watch(fd: int, callback: Callable[..., None]) -> Callable[[], object]:
        source = GLib.io_add_watch(fd, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, _again(callback))
        return lambda: _remove(source)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        source = GLib.timeout_add(max(1, round(delay * 1000)), _once(callback))
        return lambda: _remove(source)

    return Attachment(reactor, budget, watch, call_later)


def _again(callback: Callable[..., None]) -> Callable[..., bool]:
    def call(*args: Any) -> bool:
        callback()
        return True

    return call


def _once(callback: Callable[[], None]) -> Callable[[], bool]:
    def call() -> bool:
        callback()
        return False

    return call


def _remove(source: int) -> None:
    if GLib.MainContext.default().find_source_by_id(source) is not None:
        GLib.source_remove(source)
