"""The reactor in Tk's main loop."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable

from reactor.embed.attachment import BUDGET, Attachment
from reactor.errors import UsageError
from reactor.reactor import Reactor

__all__ = ["attach"]


def attach(reactor: Reactor, root: tk.Misc, *, budget: float = BUDGET) -> Attachment:
    """Make the main loop of `root`, any widget, drive `reactor`, on the thread of that loop.

    budget: seconds of work after which the window handles its other events.
    Raises UsageError where Tk can't watch descriptors, as on Windows.

        import tkinter
        from reactor import Reactor
        from reactor.embed.tkinter import attach

        root = tkinter.Tk()
        with Reactor() as reactor, attach(reactor, root):
            reactor.call_later(0.01, root.quit)
            root.mainloop()
    """
    if not hasattr(root.tk, "createfilehandler"):
        raise UsageError("Tk can't watch descriptors here: step the reactor with root.after and run_once")

    def watch(fd: int, callback: Callable[..., None]) -> Callable[[], object]:
        root.tk.createfilehandler(fd, tk.READABLE, callback)
        return lambda: root.tk.deletefilehandler(fd)

    def call_later(delay: float, callback: Callable[[], None]) -> Callable[[], object]:
        timer = root.after(max(1, round(delay * 1000)), callback)
        return lambda: root.after_cancel(timer)

    return Attachment(reactor, budget, watch, call_later)
