"""`Backplane`: what both backplanes do alike, with its `Subscription`, `Membership`, state and statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from secrets import token_hex
from typing import Any, Self

import attrs

from reactor.errors import UsageError
from reactor.loop.context import ContextExit
from reactor.loop.log import LimitedLog
from reactor.options import check_callable, check_type
from reactor.reactor import Reactor, loop_of

__all__ = [
    "MAX_MESSAGE",
    "MAX_QUEUED",
    "PRESENCE_TTL",
    "Backplane",
    "BackplaneState",
    "BackplaneStats",
    "Counts",
    "GapHandler",
    "Membership",
    "MessageHandler",
    "Subscription",
    "check_count",
]

#: The default limit of a message, bytes.
MAX_MESSAGE = 1024 * 1024

#: The default limit of the messages that wait for the broker, bytes.
MAX_QUEUED = 16 * 1024 * 1024

#: Seconds for which the names of a process that has died stay taken, by default.
PRESENCE_TTL = 10.0

# Bytes of a topic, group or name, in UTF-8. Each message has its topic with it.
_MAX_NAME = 512

# Bytes of `max_queued` for each of the messages that wait, however small they are, but for the first ones.
_LEAST_SIZE = 64
_ALWAYS = 1024

#: Called as `on_message(topic, data)` for each message.
MessageHandler = Callable[[str, bytes], object]

#: Called as `on_gap(topic, missed)`: so many messages are missing here; None: unknown, perhaps none.
GapHandler = Callable[[str, int | None], object]


class BackplaneState(Enum):
    """Whether messages pass. A readiness check is to accept UP alone."""

    CONNECTING = "connecting"  # not yet, or not since a moment ago
    UP = "up"  # heartbeats come back from the broker
    DEAF = "deaf"  # none has come back within the deadline
    CLOSED = "closed"


@attrs.frozen(kw_only=True)
class BackplaneStats:
    """The state of a backplane, and its counts since it was made.

    topics, subscriptions: those that it has now. names: those that this process has taken.
    published: messages that `publish` accepted. acknowledged: of these, the ones that the broker has.
    refused: messages that `publish` returned False for, by the cause: "too large", "queue full", "closed".
    unsent: messages that were accepted and still waiting when the backplane was closed, or on their way when
        it lost its connection after that: of these, the broker may have some.
    queued, queued_bytes: messages that the broker has not acknowledged yet, and their bytes.
    received: messages passed to a topic's subscribers. recovered: of these, the ones read from the history.
    duplicates: messages that came again, and were not passed on.
    missed: messages reported to `on_gap` by their number. unknown_gaps: reports without a number.
    connected: connections to the broker that were ready for use. deaf: how often a deadline was missed.
    heard: seconds since the last heartbeat came back; None before the first.

    >>> from reactor.backplane import LocalBackplane
    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor, LocalBackplane(reactor, max_message=3) as backplane:
    ...     backplane.publish("news", b"hello")
    ...     backplane.stats().refused
    False
    {'too large': 1}
    """

    state: BackplaneState
    topics: int
    subscriptions: int
    names: int
    published: int
    acknowledged: int
    refused: Mapping[str, int]
    unsent: int
    queued: int
    queued_bytes: int
    received: int
    recovered: int
    duplicates: int
    missed: int
    unknown_gaps: int
    connected: int
    deaf: int
    heard: float | None


@attrs.define
class Counts:
    """The counters behind `BackplaneStats`."""

    published: int = 0
    acknowledged: int = 0
    unsent: int = 0
    received: int = 0
    recovered: int = 0
    duplicates: int = 0
    missed: int = 0
    unknown_gaps: int = 0
    connected: int = 0
    deaf: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)


@attrs.define(eq=False, repr=False)
class Subscription:
    """A subscription of one topic, from `Backplane.subscribe` to `cancel`.

    topic: its name. active: whether it still receives messages.

    >>> from reactor.backplane import LocalBackplane
    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor, LocalBackplane(reactor) as backplane:
    ...     subscription = backplane.subscribe("news", print)
    ...     subscription.cancel()
    ...     subscription
    <Subscription 'news' cancelled>
    """

    topic: str
    _on_message: MessageHandler
    _on_gap: GapHandler | None
    _backplane: Backplane | None

    def __repr__(self) -> str:
        return f"<Subscription {self.topic!r}{'' if self.active else ' cancelled'}>"

    @property
    def active(self) -> bool:
        """Whether it still receives messages."""
        return self._backplane is not None

    def cancel(self) -> None:
        """Receive nothing any more, from now on; more than once does nothing. On the reactor's thread."""
        backplane, self._backplane = self._backplane, None
        if backplane is not None:
            backplane.unsubscribed(self)

    def message(self, data: bytes) -> None:
        """Pass a message to `on_message`. Called by the backplane."""
        if self._backplane is not None:
            self._on_message(self.topic, data)

    def gap(self, missed: int | None) -> bool:
        """Report a gap to `on_gap`; return whether there is one to be called. Called by the backplane."""
        if self._backplane is None or self._on_gap is None:
            return self._backplane is None
        self._on_gap(self.topic, missed)
        return True


@attrs.define(eq=False, repr=False)
class Membership:
    """A name in a group, from `Backplane.take` to `give_back`, or to its loss.

    group, name: as they were given to `take`. token: the proof of ownership, for `take` in another process.
    held: whether this process has the name; None until the broker has answered.

    >>> from reactor.backplane import LocalBackplane
    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor, LocalBackplane(reactor) as backplane:
    ...     membership = backplane.take("nicknames", "ann", lambda taken: None)
    ...     backplane.members("nicknames", print)
    ...     reactor.settle()
    ...     membership.held
    ['ann']
    True
    """

    group: str
    name: str
    token: str
    _on_result: Callable[[bool], object]
    _on_lost: Callable[[], object] | None
    _backplane: Backplane | None
    held: bool | None = None

    def __repr__(self) -> str:
        return f"<Membership {self.name!r} of {self.group!r}, held: {self.held}>"

    def give_back(self) -> None:
        """Free the name; more than once does nothing. On the reactor's thread."""
        self._end(hand_over=False)

    def hand_over(self) -> str:
        """Give the name up, for another process that takes it with the token, which is returned.

        Until that `take`, the name is reserved for as long as the names of a dead process would be; if the
        broker is away now, only until this process reaches it again.
        On the reactor's thread.
        """
        self._end(hand_over=True)
        return self.token

    def _end(self, *, hand_over: bool) -> None:
        backplane, self._backplane = self._backplane, None
        if backplane is not None:
            backplane.gave_back(self, hand_over=hand_over)
            self.held = False

    def answered(self, taken: bool) -> None:
        """Note whether the name was taken, and call `on_result` or `on_lost`. Called by the backplane."""
        if self._backplane is None:
            return
        before, self.held = self.held, taken
        if not taken:
            self._backplane = None
        if before is None:
            self._on_result(taken)
        elif not taken and self._on_lost is not None:
            self._on_lost()


class Backplane(ContextExit, ABC):
    """Messages by topic between processes, and names that are unique among them.

    Its methods are called on the reactor's thread, and its callbacks there too, never from within a call of
    it. As a context manager it is closed at the end. What a callback raises goes to the reactor's
    `on_error`, and neither loses the message for others nor ends the backplane. Topics, groups and names are
    text of at most 512 bytes in UTF-8; ValueError is raised for a longer or an empty one, and for one with a
    lone surrogate.

    >>> from reactor.backplane import Backplane, LocalBackplane
    >>> from reactor.testing import MemoryReactor
    >>> def greet(backplane: Backplane) -> bool:
    ...     return backplane.publish("news", b"hello")
    >>> with MemoryReactor() as reactor, LocalBackplane(reactor) as backplane:
    ...     greet(backplane)
    True
    """

    def __init__(self, reactor: Reactor, max_message: int, max_queued: int) -> None:
        check_type("reactor", reactor, Reactor)
        self._reactor = reactor
        self._log: LimitedLog = loop_of(reactor).scheduler.log
        self._max_message = check_count("max_message", max_message)
        self._max_queued = check_count("max_queued", max_queued)
        self._counts = Counts()
        self._closed = False

    def _begin(self) -> None:
        """Close with the reactor. Called by the engine when it is whole."""
        self._at_close = self._reactor.call_at_close(self.close)

    def __enter__(self) -> Self:
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        self.close()

    # Topics

    def subscribe(
        self, topic: str, on_message: MessageHandler, on_gap: GapHandler | None = None
    ) -> Subscription:
        """Pass every message of `topic` to `on_message`, in the topic's order and once, until `cancel`.

        The first one is that which is published next, here or, once the broker has answered, elsewhere; or
        an earlier one that other subscribers of this process have not got yet.
        on_gap: called, in its place among the messages, where messages are missing that can't be recovered
            from the broker's history; None: that is logged as a warning.
        Raises UsageError if the backplane is closed, ValueError for an empty topic, TypeError for a topic
        that is not text, or a handler that can't be called.
        """
        _check_name("topic", topic)
        check_callable("on_message", on_message)
        check_callable("on_gap", on_gap, optional=True)
        self._check_open()
        subscription = Subscription(topic, on_message, on_gap, self)
        self._add(subscription)
        return subscription

    def publish(self, topic: str, data: bytes) -> bool:
        """Send `data` to all subscribers of `topic`, here and elsewhere; return whether it was accepted.

        It is sent once, in the order of the calls, also if the broker is away for a while. False, and
        counted in `stats().refused`: it is larger than `max_message`, more than `max_queued` bytes wait for
        the broker, or one message for each 64 of these (and at least 1,024), or the backplane is closed.
        Raises ValueError for an empty topic, TypeError if `topic` is not text or `data` not bytes.
        """
        _check_name("topic", topic)
        check_type("data", data, bytes)
        refusal = self._refusal(len(data))
        if refusal is not None:
            self._counts.refused[refusal] += 1
            self._log.warning(("refused", refusal), f"a message to topic %s was refused: {refusal}", topic)
            return False
        self._counts.published += 1
        self._send(topic, data)
        return True

    def _refusal(self, size: int) -> str | None:
        """Return why a message of `size` bytes is refused, or None."""
        if self._closed:
            return "closed"
        if size > self._max_message:
            return "too large"
        count, queued = self._queued()
        if queued + size > self._max_queued or count >= max(_ALWAYS, self._max_queued // _LEAST_SIZE):
            return "queue full"
        return None

    def read_last(self, topic: str, count: int, on_messages: Callable[[list[bytes] | None], object]) -> None:
        """Read the last messages of `topic` from the history, whether or not it is subscribed to.

        count: of messages, at most. on_messages: called with a list of them, the oldest first, or with None
            if the broker is away. Messages that subscribers here have not received yet may be among them.
        Raises UsageError if the backplane is closed, ValueError for an empty topic or a count below 1,
        TypeError for an argument of the wrong type.
        """
        _check_name("topic", topic)
        check_count("count", count)
        check_callable("on_messages", on_messages)
        self._check_open()
        self._read_last(topic, count, on_messages)

    # Presence

    def take(
        self,
        group: str,
        name: str,
        on_result: Callable[[bool], object],
        *,
        on_lost: Callable[[], object] | None = None,
        token: str | None = None,
    ) -> Membership:
        """Take `name` in `group`, unless somebody has it, in this process or another.

        on_result: called as `on_result(taken)` when the broker has answered.
        on_lost: called if the name is lost afterwards: the broker was away for so long that the name was
            freed, and another process has taken it.
        token: of `Membership.hand_over` in another process, which has the name now; this process takes it
            from there.
        Names are compared as they are. When the process dies, its names are free after `presence_ttl`
        seconds. Raises UsageError if the backplane is closed, ValueError for an empty group or name,
        TypeError for an argument of the wrong type.
        """
        _check_name("group", group)
        _check_name("name", name)
        check_callable("on_result", on_result)
        check_callable("on_lost", on_lost, optional=True)
        check_type("token", token, str, optional=True)
        if token:
            _check_name("token", token)
        self._check_open()
        membership = Membership(group, name, token or token_hex(8), on_result, on_lost, self)
        self._take(membership)
        return membership

    def members(self, group: str, on_members: Callable[[list[str] | None], object]) -> None:
        """Look up the names that are taken in `group`, in all processes.

        on_members: called with a sorted list, or with None if the broker is away.
        Raises UsageError if the backplane is closed, ValueError for an empty group, TypeError for an argument
        of the wrong type.
        """
        _check_name("group", group)
        check_callable("on_members", on_members)
        self._check_open()
        self._look_up(group, on_members)

    # State

    @property
    @abstractmethod
    def state(self) -> BackplaneState:
        """Whether messages pass."""

    def stats(self) -> BackplaneStats:
        """Return the state and the counts."""
        counts = attrs.asdict(self._counts)
        counts["refused"] = dict(self._counts.refused)
        return BackplaneStats(state=self.state, **counts, **self._sizes())

    def close(self) -> None:
        """Give all names back, end all subscriptions, and close the connections when all is sent.

        The reactor has to run until they are closed. Messages that wait for an absent broker are dropped,
        which is logged and counted as `unsent`, as are those on their way when a connection is lost. More
        than once does nothing.
        """
        if not self._closed:
            self._closed = True
            self._at_close.cancel()
            self._close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self} is closed: make another one")

    # For subscriptions and memberships

    @abstractmethod
    def unsubscribed(self, subscription: Subscription) -> None:
        """Remove a subscription. Called by `Subscription.cancel`."""

    @abstractmethod
    def gave_back(self, membership: Membership, *, hand_over: bool) -> None:
        """Free a name, or reserve it for who has its token. Called by the membership."""

    # Of each engine

    @abstractmethod
    def _add(self, subscription: Subscription) -> None: ...

    @abstractmethod
    def _send(self, topic: str, data: bytes) -> None: ...

    @abstractmethod
    def _read_last(
        self, topic: str, count: int, on_messages: Callable[[list[bytes] | None], object]
    ) -> None: ...

    @abstractmethod
    def _queued(self) -> tuple[int, int]: ...  # messages that wait, and their bytes

    @abstractmethod
    def _take(self, membership: Membership) -> None: ...

    @abstractmethod
    def _look_up(self, group: str, on_members: Callable[[list[str] | None], object]) -> None: ...

    @abstractmethod
    def _sizes(self) -> dict[str, Any]: ...

    @abstractmethod
    def _close(self) -> None: ...

    # Callbacks

    def _call(self, name: str, callback: Callable[..., object], *args: object) -> None:
        """Call back to the program; what it raises is reported."""
        try:
            callback(*args)
        except Exception as exc:
            self._reactor.report(exc, name)

    def _deliver(self, subscribers: tuple[Subscription, ...], data: bytes) -> None:
        """Pass a message to the subscribers of its topic."""
        self._counts.received += 1
        for subscription in subscribers:
            try:
                subscription.message(data)
            except Exception as exc:
                self._reactor.report(exc, f"on_message of topic {subscription.topic!r}")

    def _report_gap(self, subscribers: tuple[Subscription, ...], missed: int | None) -> None:
        """Report missing messages to the subscribers of their topic, or log them for want of `on_gap`."""
        if missed is None:
            self._counts.unknown_gaps += 1
        else:
            self._counts.missed += missed
        for subscription in subscribers:
            try:
                if not subscription.gap(missed):
                    number = "an unknown number of" if missed is None else missed
                    message = "%s messages of topic %s are missing: they are not in the broker's history"
                    self._log.warning(("gap", subscription.topic), message, number, subscription.topic)
            except Exception as exc:
                self._reactor.report(exc, f"on_gap of topic {subscription.topic!r}")


def check_count(name: str, value: int) -> int:
    """Return `value`, a whole number of 1 or more. Raises TypeError or ValueError, naming the parameter."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of 1 or more, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def _check_name(name: str, value: str) -> None:
    check_type(name, value, str)
    if not value:
        raise ValueError(f"{name} must not be empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can encode, not {value[:_MAX_NAME]!r}") from None
    if size > _MAX_NAME:
        raise ValueError(f"{name} must be at most {_MAX_NAME} bytes in UTF-8, not {size}: {value[:40]!r}...")
