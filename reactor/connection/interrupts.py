"""Interrupts: KeyboardInterrupt and the like, in a connection or in a callback of its protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactor.loop.context import ContextExit

__all__ = ["Step", "came_out_of"]

#: Callbacks of a protocol in which an interrupt leaves the connection nothing half done. A protocol of this
#: package that has a callback of its own in their place, for its subclasses, names it in `_interruptible`.
_INTERRUPTIBLE = ("data_received", "buffer_updated", "pause_writing", "resume_writing")


def came_out_of(protocol: Any, exc: BaseException) -> bool:
    """Return whether `exc` came out of a callback of `protocol` that may be interrupted."""
    names = getattr(protocol, "_interruptible", _INTERRUPTIBLE)
    codes = {getattr(getattr(protocol, name, None), "__code__", None) for name in names}
    at = exc.__traceback__
    while at is not None and at.tb_frame.f_code not in codes:
        at = at.tb_next
    return at is not None


class Step(ContextExit):
    """A context manager around a step that an interrupt must not leave half done.

    on_interrupt: called with KeyboardInterrupt or the like, if that leaves the block; not with an Exception.
    """

    __slots__ = ("_on_interrupt",)

    def __init__(self, on_interrupt: Callable[[BaseException], object]) -> None:
        self._on_interrupt = on_interrupt

    def __enter__(self) -> None:
        pass

    def _leave_block(self, exc: BaseException | None) -> None:
        if exc is not None and not isinstance(exc, Exception):
            self._on_interrupt(exc)
