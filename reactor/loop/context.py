"""The base class of context managers: `__exit__` with its three parameters, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

__all__ = ["ContextExit"]


class ContextExit(ABC):
    """Base class of context managers that do the same whether or not the block has raised."""

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
        """End what the block was for. exc: the exception that leaves the block, or None."""
