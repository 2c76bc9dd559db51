"""`LocalBackplane`: a backplane in memory, for one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from reactor.backplane.interface import (
    MAX_MESSAGE,
    MAX_QUEUED,
    PRESENCE_TTL,
    Backplane,
    BackplaneState,
    Membership,
    Subscription,
    check_count,
)
from reactor.loop.timers import Handle
from reactor.options import seconds
from reactor.reactor import Reactor

__all__ = ["LocalBackplane"]


# Topics whose history is kept: those with the last messages.
_TOPICS = 256


@attrs.define(eq=False)
class _Taken:
    """A name in use. membership: whose it is; None while it is reserved. release: the end of that."""

    token: str
    membership: Membership | None
    release: Handle | None = None


class LocalBackplane(Backplane):
    """A backplane in memory, for the subscribers of one process and for tests. No message is ever missing.

    reactor: on whose thread it is used.
    history, history_age: messages of a topic that are kept for `read_last`, and the seconds for which they
        are kept, of 256 topics at most. By default none: no subscriber needs it.
    max_message: bytes of the largest message. max_queued: bytes of the messages that one tick may publish.
    presence_ttl: seconds for which a name is reserved after `Membership.hand_over`.
    Raises TypeError or ValueError, naming the parameter, for an invalid argument.

    >>> from reactor.backplane import LocalBackplane
    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor, LocalBackplane(reactor) as backplane:
    ...     _ = backplane.subscribe("news", lambda topic, data: print(topic, data))
    ...     _ = backplane.publish("news", b"hello")
    ...     reactor.settle()
    news b'hello'
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        history: int = 0,
        history_age: float = 300.0,
        max_message: int = MAX_MESSAGE,
        max_queued: int = MAX_QUEUED,
        presence_ttl: float = PRESENCE_TTL,
    ) -> None:
        super().__init__(reactor, max_message, max_queued)
        self._history = history and check_count("history", history)
        self._history_age = seconds("history_age", history_age)
        self._presence_ttl = seconds("presence_ttl", presence_ttl)
        self._topics: dict[str, tuple[Subscription, ...]] = {}
        self._due: deque[tuple[tuple[Subscription, ...], bytes]] = (
            deque()
        )  # as they were when it was published
        self._due_bytes = 0
        # The messages of each topic with their times; topics in the order of their last message.
        self._histories: dict[str, deque[tuple[float, bytes]]] = {}
        self._groups: dict[str, dict[str, _Taken]] = {}
        self._begin()

    def __repr__(self) -> str:
        return "<LocalBackplane>"

    @property
    def state(self) -> BackplaneState:
        """UP until it is closed."""
        return BackplaneState.CLOSED if self._closed else BackplaneState.UP

    # Topics

    def _add(self, subscription: Subscription) -> None:
        self._topics[subscription.topic] = (*self._topics.get(subscription.topic, ()), subscription)

    def unsubscribed(self, subscription: Subscription) -> None:
        """Remove a subscription. Called by `Subscription.cancel`."""
        left = tuple(each for each in self._topics.get(subscription.topic, ()) if each is not subscription)
        if left:
            self._topics[subscription.topic] = left
        else:
            self._topics.pop(subscription.topic, None)

    def _send(self, topic: str, data: bytes) -> None:
        self._due.append((self._topics.get(topic, ()), data))
        self._due_bytes += len(data)
        if self._history:
            self._keep(topic, data)
        self._reactor.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        if not self._due:
            return  # closed meanwhile
        subscribers, data = self._due.popleft()
        self._due_bytes -= len(data)
        self._counts.acknowledged += 1
        if subscribers:
            self._deliver(subscribers, data)

    def _queued(self) -> tuple[int, int]:
        return len(self._due), self._due_bytes

    # The history

    def _keep(self, topic: str, data: bytes) -> None:
        """Add a message to the history; forget the topics whose last message is too old, or of too many."""
        now = self._reactor.time()
        kept = self._histories.pop(topic, None) or deque(maxlen=self._history)
        kept.append((now, data))
        self._histories[topic] = kept
        oldest = next(iter(self._histories))
        while self._histories[oldest][-1][0] < now - self._history_age or len(self._histories) > _TOPICS:
            del self._histories[oldest]
            oldest = next(iter(self._histories))

    def _read_last(self, topic: str, count: int, on_messages: Callable[[list[bytes] | None], object]) -> None:
        self._reactor.call_soon(self._answer_last, topic, count, on_messages)

    def _answer_last(
        self, topic: str, count: int, on_messages: Callable[[list[bytes] | None], object]
    ) -> None:
        oldest = self._reactor.time() - self._history_age
        kept = [data for when, data in self._histories.get(topic, ()) if when >= oldest]
        self._call("on_messages", on_messages, kept[-count:])

    # Presence

    def _take(self, membership: Membership) -> None:
        names = self._groups.setdefault(membership.group, {})
        taken = names.get(membership.name)
        free = taken is None or taken.token == membership.token
        if free:
            if taken is not None and taken.release is not None:
                taken.release.cancel()
            names[membership.name] = _Taken(membership.token, membership)
        self._reactor.call_soon(self._call, "on_result of take", membership.answered, free)

    def gave_back(self, membership: Membership, *, hand_over: bool) -> None:
        """Free a name, or reserve it for `presence_ttl` seconds. Called by the membership."""
        taken = self._groups.get(membership.group, {}).get(membership.name)
        if taken is None or taken.membership is not membership:
            return
        if hand_over and not self._closed:
            taken.membership = None
            taken.release = self._reactor.call_later(self._presence_ttl, self._free, membership)
        else:
            self._free(membership)

    def _free(self, membership: Membership) -> None:
        names = self._groups[membership.group]
        del names[membership.name]
        if not names:
            del self._groups[membership.group]

    def _look_up(self, group: str, on_members: Callable[[list[str] | None], object]) -> None:
        self._reactor.call_soon(self._answer, group, on_members)

    def _answer(self, group: str, on_members: Callable[[list[str] | None], object]) -> None:
        self._call("on_members", on_members, sorted(self._groups.get(group, ())))

    # State and end

    def _sizes(self) -> dict[str, Any]:
        return {
            "topics": len(self._topics),
            "subscriptions": sum(map(len, self._topics.values())),
            "names": sum(map(len, self._groups.values())),
            "queued": len(self._due),
            "queued_bytes": self._due_bytes,
            "heard": 0.0,
        }

    def _close(self) -> None:
        self._counts.unsent += len(self._due)
        self._due.clear()
        self._due_bytes = 0
        topics, self._topics = self._topics, {}
        for subscribers in topics.values():
            for subscription in subscribers:
                subscription.cancel()
        for names in list(self._groups.values()):
            for taken in list(names.values()):
                if taken.release is not None:
                    taken.release.cancel()
        self._groups.clear()
        self._histories.clear()
