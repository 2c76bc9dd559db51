"""The reactor in Qt's event loop, through PySide6 or PyQt6: the one that is imported, or else installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from reactor.embed.attachment import BUDGET, Attachment
from reactor.errors import missing_package
from reactor.reactor import Reactor

__all__ = ["attach"]

_BINDINGS = ("PySide6", "PyQt6")


def attach(reactor: Reactor, *, budget: float = BUDGET) -> Attachment:
    """Make Qt's event loop drive `reactor`, on the thread of the application object, which there must be.

    budget: seconds of work after which the application handles its other events.
    PyQt6 ends the process when a KeyboardInterrupt leaves a callback, as it does with slots.
    Raises ImportError if neither binding is installed.

        from PySide6.QtCore import QCoreApplication
        from reactor import Reactor
        from reactor.embed.qt import attach

        application = QCoreApplication([])
        with Reactor() as reactor, attach(reactor):
            reactor.call_later(0.01, application.quit)
            application.exec()
    """
    core = _core()

    def watch(fd: int, callback: Callable[..., None]) -> Callable[[], object]:
        notifier = core.QSocketNotifier(fd, core.QSocketNotifier.Type.Read)
        notifier.activated.connect(lambda *args: callback())
        return lambda: notifier.setEnabled(False)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        timer = core.QTimer()
        timer.setSingleShot(True)
        timer.setTimerType(core.Qt.TimerType.PreciseTimer)
        timer.timeout.connect(callback)
        timer.start(max(1, round(delay * 1000)))
        stop: Callable[[], object] = timer.stop
        return stop

    return Attachment(reactor, budget, watch, call_later)


def _core() -> Any:
    # A program that has imported one of them must not get objects of the other.
    for name in sorted(_BINDINGS, key=lambda name: f"{name}.QtCore" not in sys.modules):
        try:
            return importlib.import_module(f"{name}.QtCore")
        except ModuleNotFoundError:
            continue
    raise missing_package("reactor.embed.qt", "PySide6 or PyQt6", "qt")
