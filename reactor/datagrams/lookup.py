"""`Lookup`: from the name that `connect_datagram` is given to a connected socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reactor.address import Address
from reactor.datagrams.opening import Opened, connect_first
from reactor.datagrams.state import ENDED, Core
from reactor.errors import AddressError, ConnectError, UsageError

if TYPE_CHECKING:
    from reactor.loop.workers import Workers

__all__ = ["FailureHandler", "Lookup"]

#: Called with the error of `connect_datagram`, if its name can't be resolved or there is no route.
FailureHandler = Callable[[ConnectError], object]


class Lookup:
    """The look-up of an endpoint's target, and the connecting of its socket.

    core: the endpoint's. local_address: what it is bound to before. on_opened: takes the socket; raises what
    the protocol factory raises. on_gone: called first, if there is none. on_failure: of `connect_datagram`.
    """

    __slots__ = ("_answer", "_core", "_local_address", "_on_failure", "_on_gone", "_on_opened")

    def __init__(
        self,
        core: Core,
        local_address: Address | None,
        *,
        on_opened: Callable[[Opened], None],
        on_gone: Callable[[], None],
        on_failure: FailureHandler | None,
    ) -> None:
        self._core = core
        self._local_address = local_address
        self._on_opened = on_opened
        self._on_gone = on_gone
        self._on_failure = on_failure
        self._answer: tuple[list[Any], OSError | None] | None = None  # where it is, or why not

    def begin(self, resolver: Workers) -> None:
        """Look the target up, on a thread if it is a name.

        Raises, for a numeric one, what the factory raises, and without `on_failure` ConnectError.
        """
        target = self._target
        if target.family is not None:
            self._resolve(target)
            self.finish(at_once=True)
            return
        try:
            resolver.submit(lambda: self._resolve_on_thread(target))
        except RuntimeError as exc:  # the system allows no thread
            self._answer = [], OSError(str(exc))
            self._core.loop.scheduler.call_soon(self.finish)

    @property
    def _target(self) -> Address:
        assert self._core.target is not None
        return self._core.target

    def _resolve(self, target: Address) -> None:
        try:
            self._answer = self._core.loop.system.resolve(target), None
        except OSError as exc:
            self._answer = [], exc

    def _resolve_on_thread(self, target: Address) -> None:
        # getaddrinfo(3) may take seconds.
        self._resolve(target)
        try:
            self._core.loop.scheduler.call_soon_threadsafe(self.finish)
        except UsageError:
            pass  # closed meanwhile

    def finish(self, *, at_once: bool = False) -> None:
        """Connect the socket, if there is an answer. More than once does nothing.

        at_once: within `begin`, which raises what goes wrong.
        """
        core = self._core
        if self._answer is None or core.sock is not None or core.state in ENDED:
            return
        try:
            opened = self._connect(*self._answer)
        except (ConnectError, AddressError, UsageError) as exc:
            self._failed(exc, at_once)
            return
        try:
            self._on_opened(opened)
        except Exception as exc:
            if at_once:
                raise
            core.loop.scheduler.report(exc, f"the protocol factory of {core.endpoint}")

    def _connect(self, places: list[Any], problem: OSError | None) -> Opened:
        core, target = self._core, self._target
        if problem is not None:
            cause = problem.strerror or str(problem)
            text = f"cannot connect to {target}: {cause}"
            raise ConnectError(text, ((str(target), problem),)) from problem
        return connect_first(target, places, self._local_address, core.settings, core.loop.system)

    def _failed(self, exc: ConnectError | AddressError | UsageError, at_once: bool) -> None:
        core = self._core
        self._on_gone()
        if self._on_failure is not None and isinstance(exc, ConnectError):
            core.loop.scheduler.call_soon(self._on_failure, exc)
        elif at_once:
            raise exc
        else:
            core.loop.scheduler.report(exc, repr(core.endpoint))
