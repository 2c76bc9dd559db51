"""`RedisBackplane`: messages between processes and machines over Redis or Valkey, by two connections.

One is for commands: it publishes, and reads the history. The other one receives what is published. What is
published in a tick leaves in one write, because the connection gathers it. The parts that do no I/O are
`Outbox`, for what is to be published, `Topic`, for what is received, `Health`, and the broker's `scripts`;
`Presence` has the names.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from reactor.backplane.commands import DIGESTS, Commands, ignore
from reactor.backplane.health import BEATS, Health
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
from reactor.backplane.link import Link, Refusable
from reactor.backplane.outbox import Outbox
from reactor.backplane.presence import Presence
from reactor.backplane.scripts import CHECK, FORGET, MEMBERS, PUBLISH, READ, SCRIPTS
from reactor.backplane.server import OPTIONS, SECTIONS, Server, check_rights, describe
from reactor.backplane.topic import Live, Read, Topic
from reactor.backplane.url import BrokerURL
from reactor.connecting.connector import Connector, keep_through_drain
from reactor.errors import BrokerError, ConnectError
from reactor.options import Limits, Reconnect, Timeouts, check_type, seconds
from reactor.reactor import Reactor

if TYPE_CHECKING:
    import ssl

__all__ = ["RedisBackplane"]

# Messages and bytes of a topic's history that are read at once, and topics that are read at the same time.
_CHUNK = 512
_CHUNK_BYTES = 64 * 1024
_READS = 64

# Topics that are subscribed, and keys that are renewed, in one tick.
_AT_ONCE = 1000

# The broker bounds what it queues for a connection itself; what it is sent is bounded by `max_queued`.
_LIMITS = Limits(max_write_buffer=None, high_water=1024 * 1024, low_water=256 * 1024)

# Seconds between two renewals of the topics, which the broker would forget else.
_RENEW = FORGET / 8

# Seconds of the longest duration for the broker: a hundred years.
_LONGEST = 100 * 365 * FORGET

_MAX_COUNT = 2**63 - 1  # what the broker takes for a number


class RedisBackplane(Backplane):
    """Messages between the processes and machines that use the same broker, Redis 6.2 or Valkey and newer.

    reactor: on whose thread it is used.
    url: redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// over TLS, or unix:///PATH[?db=DATABASE].
    tls: the context for rediss://; None: `reactor.tls.client_context()`.
    prefix: of all keys and channels.
    history, history_age: messages of a topic that the broker keeps, a few more at times, and the seconds for
        which it keeps them. A subscriber that was cut off gets from there what it has missed.
    max_message: bytes of the largest message.
    max_queued: bytes of the messages that the broker has not acknowledged; `publish` refuses more.
    deadline: seconds, after which a backplane that does not hear its own heartbeats is deaf.
    presence_ttl: seconds after which the names of a process that has died, or that does not reach the broker,
        are free. More than `deadline`.
    reconnect: the delays after a lost connection.
    Raises AddressError for an invalid URL, TypeError or ValueError, naming the parameter, for another invalid
    argument, UsageError if the reactor is closed.

    >>> from reactor.backplane import RedisBackplane
    >>> from reactor.testing import MemoryReactor
    >>> with MemoryReactor() as reactor:
    ...     backplane = RedisBackplane(reactor, "redis://:secret@127.0.0.1/1")
    ...     backplane.state.value, backplane.publish("news", b"sent when the broker is there")
    ('connecting', True)
    """

    def __init__(
        self,
        reactor: Reactor,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        prefix: str = "reactor",
        history: int = 1000,
        history_age: float = 300.0,
        max_message: int = MAX_MESSAGE,
        max_queued: int = MAX_QUEUED,
        deadline: float = 4.0,
        presence_ttl: float = PRESENCE_TTL,
        reconnect: Reconnect | None = None,
    ) -> None:
        super().__init__(reactor, max_message, max_queued)
        check_type("url", url, str)
        check_type("prefix", prefix, str)
        check_type("reconnect", reconnect, Reconnect, optional=True)
        self._url = BrokerURL.parse(url)
        self._history = check_count("history", history)
        self._history_age = _milliseconds("history_age", history_age)
        self._deadline = seconds("deadline", deadline)
        ttl = _milliseconds("presence_ttl", presence_ttl)
        if ttl <= self._deadline * 1000:
            raise ValueError(f"presence_ttl ({presence_ttl:g}) must be above deadline ({deadline:g})")

        # The links. Those that are signing in are in `_open` alone.
        self._commands = Commands(f"{prefix}:{self._url.database}:")
        self._key = self._commands.key
        self._receiver: Link | None = None
        self._open: set[Link] = set()

        self._name = token_hex(8)
        self._ear = self._key("b", self._name)
        self._health = Health(self, self._ear, self._deadline, reactor.time, self._counts, self._log)
        self._presence = Presence(reactor, self._commands, ttl, self._call)
        self._looking_up: dict[object, partial[None]] = {}  # with None, if the connection is lost

        # The server, as it was when the commands' link was made.
        self._run = ""  # its name, with "+" if it is durable
        self._epochs = 0  # that it has proposed
        self._evicts: str | None = None  # the policy

        self._outbox = Outbox()
        self._topics: dict[bytes, Topic] = {}
        self._confirming: Counter[bytes] = Counter()  # SUBSCRIBE commands without their confirmation
        self._to_read: deque[Topic] = deque()  # when others have been read
        self._reads = 0  # without their answer

        self._connectors = self._connect(reconnect or Reconnect(first=0.1, max_delay=1.0), tls)
        self._begin()
        self._timer = reactor.call_later(self._deadline / BEATS, self._beat)
        self._renewal = reactor.call_later(_RENEW, self._renew)

    def __repr__(self) -> str:
        return f"<RedisBackplane {str(self._url)[1:-1]}>"

    @property
    def state(self) -> BackplaneState:
        """Whether messages pass. UP: heartbeats have come back by way of the broker."""
        return BackplaneState.CLOSED if self._closed else self._health.state

    # Connecting

    def _connect(self, reconnect: Reconnect, tls: ssl.SSLContext | None) -> list[Connector]:
        if self._url.secure and tls is None:
            from reactor.tls import client_context  # noqa: PLC0415 - imports ssl

            tls = client_context()
        commands = partial(
            Link, on_made=self._sign_in, on_lost=self._commands_lost, on_resumed=self._send_queued,
            may_end=self._may_end,
        )  # fmt: skip
        receiver = partial(
            Link, on_made=self._listen, on_lost=self._receiver_lost, on_push=self._on_push,
            may_end=self._may_end,
        )  # fmt: skip
        made = []
        for factory in (commands, receiver):
            connector = self._reactor.connect(
                self._url.address, factory, limits=_LIMITS,
                timeouts=Timeouts(connect=self._deadline, write=None, close=self._deadline),
                on_failure=self._failed, reconnect=reconnect, tls=tls if self._url.secure else None,
            )  # fmt: skip
            keep_through_drain(connector)
            made.append(connector)
        return made

    def _authenticate(self, link: Link) -> None:
        self._open.add(link)
        if self._url.password is not None:
            user = () if self._url.username is None else (self._url.username,)
            link.send(ignore, "AUTH", *user, self._url.password)
        if self._url.database:
            link.send(ignore, "SELECT", self._url.database)
        link.send(_check_pong, "PING")

    def _sign_in(self, link: Link) -> None:
        """Begin to use a new connection for commands: all that is to be known first, in one write."""
        self._authenticate(link)
        server = Server()
        for section in SECTIONS:
            link.send(server.add_info, "INFO", section)
        for option in OPTIONS:
            link.send(Refusable(server.add_option), "CONFIG", "GET", option)
        for script in SCRIPTS:
            link.send(ignore, "SCRIPT", "LOAD", script)
        keys = [self._key("c", f"{self._name}:{kind}") for kind in ("hash", "stream", "string")]
        handler = partial(check_rights, prefix=self._commands.prefix)
        link.send(handler, "EVALSHA", DIGESTS[CHECK], len(keys), *keys)
        link.send(partial(self._signed_in, link, server), "GET", self._key("p", self._outbox.publisher))

    def _signed_in(self, link: Link, server: Server, last: bytes | None) -> None:
        """Go on where the connection before has ended."""
        server.check_version()
        self._warn_of_eviction(server.evicts)
        self._run = server.run
        self._commands.link = link
        self._counts.connected += 1
        outbox = self._outbox
        outbox.resume(None if last is None else int(last))
        publisher = self._key("p", outbox.publisher)
        self._commands.send(None, "SET", publisher, outbox.acknowledged, "NX", "EX", FORGET)
        self._presence.claim_all()
        for topic in self._topics.values():
            if topic.wants_history():
                self._read(topic)
        self._send_queued()
        self._send_beat()  # behind the rest: it is not heard if the broker refuses some of that

    def _warn_of_eviction(self, policy: str | None) -> None:
        """Log that the broker may evict topics, when that has become so."""
        if policy is not None and self._evicts is None:
            message = "%s: the broker may evict topics: its maxmemory-policy is %s, not noeviction"
            self._log.warning(("evicts", self._ear), message, self, policy)
        self._evicts = policy

    def _listen(self, link: Link) -> None:
        """Begin to use a new connection for receiving."""
        self._authenticate(link)
        self._receiver = link
        self._confirming.clear()
        link.send(None, "UNSUBSCRIBE", self._ear)  # shows whether it may
        link.send(None, "SUBSCRIBE", self._ear)
        self._subscribe_all(link, list(self._topics))

    def _subscribe_all(self, link: Link, keys: list[bytes]) -> None:
        """Subscribe to topics, some in each tick."""
        if link is self._receiver:  # it was not lost meanwhile
            self._subscribe([key for key in keys[:_AT_ONCE] if key in self._topics])
            if len(keys) > _AT_ONCE:
                self._reactor.call_soon(self._subscribe_all, link, keys[_AT_ONCE:])

    def _commands_lost(self, link: Link, exc: BaseException | None) -> None:
        self._open.discard(link)
        if link is self._commands.link:
            self._commands.link = None
            self._reads = 0
            self._to_read.clear()
            for topic in self._topics.values():
                topic.lost_history()
            waiting, self._looking_up = self._looking_up, {}
            for answer in waiting.values():
                answer(None)
            if self._closed:
                self._timer.cancel()
                self._drop("the connection was lost while it closed; %d messages may not have arrived", exc)
        self._went_down(exc)

    def _receiver_lost(self, link: Link, exc: BaseException | None) -> None:
        self._open.discard(link)
        if link is self._receiver:
            self._receiver = None
            for topic in self._topics.values():
                topic.lost_live()
        self._went_down(exc)

    def _failed(self, error: ConnectError) -> None:
        self._went_down(error)

    def _may_end(self) -> bool:
        """Return whether a drain has nothing left but backplanes, and close this one then."""
        reactor = self._reactor
        others = (each for each in reactor.connections() if not isinstance(each.get_protocol(), Link))
        if reactor.listeners() or any(others):
            return False
        reactor.call_soon(self.close)
        return False  # closing says good-bye

    # Hearing oneself

    def _beat(self) -> None:
        self._timer = self._reactor.call_later(self._deadline / BEATS, self._beat)
        problem = self._health.beat()
        if problem is not None:
            for link in list(self._open):
                link.connection.abort(problem)
        self._send_beat()

    def _send_beat(self) -> None:
        """Publish a heartbeat after a write: a broker that refuses those would still pass heartbeats on."""
        self._presence.renew(partial(self._commands.send, None, "PUBLISH", self._ear, "1"))

    def _went_down(self, exc: BaseException | None) -> None:
        if not self._closed:
            self._health.went_down(describe(exc, self._commands.prefix))

    # Publishing

    def _new_epoch(self) -> str:
        self._epochs += 1
        return f"{self._name}.{self._epochs}"

    def _send(self, topic: str, data: bytes) -> None:
        self._outbox.add(topic, data)
        self._send_queued()

    def _send_queued(self) -> None:
        link = self._commands.link
        while link is not None and link.writable and self._outbox.may_send:
            message = self._outbox.next()
            if message is None:
                return
            self._send_message(*message)

    def _send_message(self, number: int, topic: str, data: bytes) -> None:
        keys = self._key("t", topic), self._key("h", topic), self._key("p", self._outbox.publisher)
        known = self._topics.get(keys[0])
        if known is not None and known.waiting and known.epoch is None:
            self._send_read(known)  # it begins before this message
        self._commands.run(
            self._acknowledged, PUBLISH, keys,
            self._run, self._new_epoch(), FORGET, number, data, self._history, self._history_age,
        )  # fmt: skip

    def _acknowledged(self, _: int) -> None:
        self._outbox.acknowledge()
        self._counts.acknowledged += 1
        self._send_queued()

    def _queued(self) -> tuple[int, int]:
        return len(self._outbox), self._outbox.size

    # Subscribing

    def _add(self, subscription: Subscription) -> None:
        key = self._key("t", subscription.topic)
        topic = self._topics.get(key)
        if topic is not None:
            topic.subscribers = (*topic.subscribers, subscription)
            return
        self._topics[key] = topic = Topic(subscription.topic, key, (subscription,))
        self._read(topic)
        self._subscribe([key])

    def unsubscribed(self, subscription: Subscription) -> None:
        """Remove a subscription. Called by `Subscription.cancel`."""
        topic = self._topics.get(self._key("t", subscription.topic))
        if topic is None:
            return  # closing
        topic.subscribers = tuple(each for each in topic.subscribers if each is not subscription)
        if not topic.subscribers:
            del self._topics[topic.key]
            if self._receiver is not None:
                self._receiver.send(None, "UNSUBSCRIBE", topic.key)

    def _subscribe(self, keys: list[bytes]) -> None:
        if keys and self._receiver is not None:
            self._confirming.update(keys)
            self._receiver.send(None, "SUBSCRIBE", *keys)

    def _on_push(self, push: list[Any]) -> None:
        kind, key = push[:2]
        topic = self._topics.get(key)
        if kind == b"message":
            if topic is not None:
                self._on_message(topic, push[2])
            elif key == self._ear:
                self._health.hear(up=self._commands.link is not None)
        elif kind == b"subscribe":
            self._on_subscribed(topic, key)

    def _on_subscribed(self, topic: Topic | None, key: bytes) -> None:
        """Read the history from the last message on: live ones come from now on."""
        if key == self._ear:
            self._counts.connected += 1
            self._send_beat()
            return
        self._confirming[key] -= 1
        if self._confirming[key]:
            return  # it was cancelled and subscribed again
        del self._confirming[key]
        if topic is not None:
            topic.subscribed = True
            if topic.reading:
                topic.again = True
            else:
                self._read(topic)

    def _on_message(self, topic: Topic, payload: bytes) -> None:
        try:
            epoch, ident, data = payload.split(b" ", 2)
            outcome = topic.receive(epoch, ident, data)
        except ValueError:
            message = "%s: somebody else has published on the channel of topic %s; it is ignored"
            self._log.warning(("foreign", topic.name), message, self, topic.name)
            return
        if outcome is Live.DELIVER:
            self._deliver(topic.subscribers, data)
        elif outcome is Live.DUPLICATE:
            self._counts.duplicates += 1
        elif outcome is Live.READ:
            self._read(topic)

    # The history

    def _read(self, topic: Topic) -> None:
        """Read the history of a topic when fewer others are being read."""
        if self._commands.link is not None:
            topic.reading = topic.waiting = True
            self._to_read.append(topic)
            self._read_more()

    def _read_more(self) -> None:
        while self._to_read and self._reads < _READS:
            topic = self._to_read.popleft()
            if topic.waiting and self._topics.get(topic.key) is topic:
                self._send_read(topic)

    def _send_read(self, topic: Topic) -> None:
        topic.waiting = False
        self._reads += 1
        keys = topic.key, self._key("h", topic.name)
        self._commands.run(
            partial(self._on_read, topic), READ, keys,
            self._run, self._new_epoch(), FORGET, topic.epoch or "", topic.last, _CHUNK, _CHUNK_BYTES,
        )  # fmt: skip

    def _on_read(self, topic: Topic, reply: Any) -> None:
        self._reads -= 1
        self._read_more()
        again, topic.reading, topic.again = topic.again, False, False
        if self._topics.get(topic.key) is not topic:
            return  # cancelled meanwhile
        epoch, head, before, base, entries, complete = reply
        read = Read(epoch, head, before, base, [(ident, fields[1]) for ident, fields in entries])
        if topic.epoch is None:
            topic.start(read)
        else:
            topic.catch_up(
                read, complete=bool(complete),
                on_message=partial(self._recovered, topic), on_gap=partial(self._missed, topic),
            )  # fmt: skip
        if not topic.subscribed:
            return  # it is read again when that is confirmed
        if again or not complete:
            self._read(topic)
        else:
            self._follow(topic)

    def _recovered(self, topic: Topic, data: bytes) -> None:
        self._counts.recovered += 1
        self._deliver(topic.subscribers, data)

    def _missed(self, topic: Topic, missed: int | None) -> None:
        self._report_gap(topic.subscribers, missed)

    def _read_last(self, topic: str, count: int, on_messages: Callable[[list[bytes] | None], object]) -> None:
        query = self._ask("on_messages", on_messages)
        if query is not None:
            key, limit = self._key("h", topic), min(count, _MAX_COUNT)
            self._commands.send(partial(self._read_back, query), "XREVRANGE", key, "+", "-", "COUNT", limit)

    def _read_back(self, query: object, entries: list[Any]) -> None:
        self._looking_up.pop(query)([fields[1] for _, fields in reversed(entries)])

    def _follow(self, topic: Topic) -> None:
        """Pass on the live messages that were kept meanwhile, and follow those that come."""
        for epoch, ident, data in topic.go_live():
            outcome = topic.receive(epoch, ident, data)
            if outcome is Live.DELIVER:
                self._deliver(topic.subscribers, data)
            elif outcome is Live.READ:
                topic.fall_behind()
                self._read(topic)
                return

    def _renew(self) -> None:
        """Keep the broker from forgetting the topics and groups that are in use."""
        self._renewal = self._reactor.call_later(_RENEW, self._renew)
        publisher = self._key("p", self._outbox.publisher)
        self._renew_some([publisher, *self._presence.groups(), *self._topics])

    def _renew_some(self, keys: list[bytes]) -> None:
        for key in keys[:_AT_ONCE]:
            self._commands.send(None, "EXPIRE", key, FORGET)
        if len(keys) > _AT_ONCE:
            self._reactor.call_soon(self._renew_some, keys[_AT_ONCE:])

    # Names

    def _take(self, membership: Membership) -> None:
        self._presence.take(membership)

    def gave_back(self, membership: Membership, *, hand_over: bool) -> None:
        """Free a name, or reserve it for `presence_ttl` seconds. Called by the membership."""
        self._presence.give_back(membership, hand_over=hand_over)

    def _look_up(self, group: str, on_members: Callable[[list[str] | None], object]) -> None:
        query = self._ask("on_members", on_members)
        if query is not None:
            self._commands.run(partial(self._looked_up, query), MEMBERS, (self._key("g", group),))

    def _ask(self, name: str, callback: Callable[[Any], object]) -> object | None:
        """Return a new query, that `callback` is called for; None if the broker is away: it is called so."""
        if self._commands.link is None:
            self._reactor.call_soon(self._call, name, callback, None)
            return None
        query = object()
        self._looking_up[query] = partial(self._call, name, callback)
        return query

    def _looked_up(self, query: object, names: list[bytes]) -> None:
        self._looking_up.pop(query)(sorted(name.decode() for name in names))

    # State and end

    def _sizes(self) -> dict[str, Any]:
        return {
            "topics": len(self._topics),
            "subscriptions": sum(len(topic.subscribers) for topic in self._topics.values()),
            "names": self._presence.count(),
            "queued": len(self._outbox),
            "queued_bytes": self._outbox.size,
            "heard": self._health.heard,
        }

    def _close(self) -> None:
        self._timer.cancel()
        self._renewal.cancel()
        for connector in self._connectors:
            connector.cancel()
        commands = self._commands.link
        if commands is None:
            self._drop("closed without a connection to the broker; %d messages that wait for it are dropped")
            self._presence.end()
        else:
            self._send_rest(commands)
            self._presence.end(commands.connection.close)
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            for subscription in topic.subscribers:
                subscription.cancel()
        for link in list(self._open):
            if link is not commands:
                link.connection.close()

    def _send_rest(self, link: Link) -> None:
        """Send what is queued; the link has until the deadline to answer all."""
        while (message_due := self._outbox.next()) is not None:
            self._send_message(*message_due)
        late = BrokerError(f"the broker has not answered within {self._deadline:g} s")
        self._timer = self._reactor.call_later(self._deadline, link.connection.abort, late)

    def _drop(self, message: str, exc: BaseException | None = None) -> None:
        """Drop the messages that the broker has not acknowledged; count and log them."""
        self._counts.unsent += (dropped := self._outbox.clear())
        if dropped:
            cause = "" if exc is None else f": {exc}"
            self._log.error(("dropped", self._ear), f"%s: {message}%s", self, dropped, cause)


def _milliseconds(name: str, value: object) -> int:
    """Return a duration as the broker takes it, whole milliseconds. Raises as `seconds`, for infinity too."""
    duration = seconds(name, value)
    if duration > _LONGEST:
        raise ValueError(f"{name} must be at most {_LONGEST} seconds, not {value!r}")
    return max(1, int(duration * 1000))


def _check_pong(reply: object) -> None:
    """Raise BrokerError unless the peer has answered to PING as a broker does."""
    if reply != b"PONG":
        raise BrokerError("the peer does not answer as Redis does")
