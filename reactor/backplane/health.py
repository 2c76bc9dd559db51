"""`Health`: whether messages pass, by the heartbeats that come back. It does no I/O."""

from __future__ import annotations

from collections.abc import Callable

from reactor.backplane.interface import BackplaneState, Counts
from reactor.errors import BrokerError
from reactor.loop.log import LimitedLog

__all__ = ["BEATS", "Health"]

#: Heartbeats in the time after which a process that does not hear them is deaf.
BEATS = 4

# Different problems that are logged until messages pass again.
_PROBLEMS = 20


class Health:
    """Whether messages pass: CONNECTING, UP or DEAF. What changes that is logged, each cause once.

    owner: what the log names. ear: the channel of its heartbeats. deadline: seconds, `BEATS` heartbeats.
    time: the clock. counts: those of the backplane.
    """

    def __init__(
        self,
        owner: object,
        ear: bytes,
        deadline: float,
        time: Callable[[], float],
        counts: Counts,
        log: LimitedLog,
    ) -> None:
        self.state = BackplaneState.CONNECTING
        self._owner = owner
        self._ear = ear
        self._deadline = deadline
        self._time = time
        self._counts = counts
        self._log = log
        self._unheard = 0  # heartbeats in a row
        self._heard_at: float | None = None
        self._down_since = time()
        self._problem = ""
        self._logged: set[str] = set()  # problems since messages have passed

    @property
    def heard(self) -> float | None:
        """Seconds since the last heartbeat came back; None before the first."""
        return None if self._heard_at is None else self._time() - self._heard_at

    def beat(self) -> BrokerError | None:
        """Note that a heartbeat is due; return the error if none has come back within the deadline."""
        problem = None
        if self._unheard >= BEATS - 1:
            self._unheard = 0
            problem = BrokerError(f"deaf: no heartbeat has come back within {self._deadline:g} s")
            self._deafen(problem)
        self._unheard += 1
        return problem

    def _deafen(self, problem: BrokerError) -> None:
        if self.state is not BackplaneState.DEAF:
            self._counts.deaf += 1
            cause = self._problem or "the broker is silent"
            self._log.error(("deaf", self._ear), "%s is %s; %s", self._owner, problem, cause)
            self.state = BackplaneState.DEAF
        self._logged.add(str(problem))

    def hear(self, *, up: bool) -> None:
        """Note that a heartbeat has come back. up: whether messages can be sent as well."""
        now = self._time()
        self._unheard, self._heard_at = 0, now
        if up and self.state is not BackplaneState.UP:
            self.state = BackplaneState.UP
            self._problem = ""
            self._logged.clear()
            after = now - self._down_since
            self._log.info(("up", self._ear), "%s: messages pass, after %.1f s", self._owner, after)

    def went_down(self, problem: str) -> None:
        """Note that a connection has ended or was not made, and log why, once for each cause."""
        if self.state is BackplaneState.UP:
            self.state = BackplaneState.CONNECTING
            self._down_since = self._time()
        if problem not in self._logged and len(self._logged) < _PROBLEMS:
            self._problem = problem
            self._logged.add(problem)
            self._log.warning(("down", self._ear, problem), "%s: %s; reconnecting", self._owner, problem)
