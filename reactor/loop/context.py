"""`ContextExit`: the base class of this package's context managers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

__all__ = ["ContextExit"]


class ContextExit(ABC):
    """Base class of context managers: `__exit__` calls `_leave_block` with the exception or None."""

    __slots__ = ()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave_block(exc)

    @abstractmethod
    def _leave_block(self, exc: BaseException | None) -> None:
        """Release the block's resources. exc: the exception that leaves the block, or None."""
