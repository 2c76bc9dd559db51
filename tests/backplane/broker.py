"""A broker in Python: the part of Redis that a backplane uses, on a reactor, with faults on command.

The effect of each script is written here once more, in Python: the tests that run on both brokers show that
it is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import hiredis

from reactor import Protocol, Reactor
from reactor.backplane import scripts
from reactor.backplane.scripts import digest

_NOTHING = object()


class Error(Exception):
    """An error reply."""


def encode(reply: Any) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
        case str():
            return f"+{reply}\r\n".encode()
        case Error():
            return f"-{reply}\r\n".encode()
        case _:
            return b"$%d\r\n%s\r\n" % (len(reply), reply)


def offset(ident: bytes) -> int:
    return int(ident.partition(b"-")[2])


def order(ident: bytes) -> tuple[int, ...]:
    return tuple(map(int, ident.split(b"-")))


@attrs.define
class Data:
    """What a server writes to its disk. logs: all messages of each topic, for the tests alone."""

    strings: dict[bytes, bytes] = attrs.field(factory=dict)
    topics: dict[bytes, dict[str, Any]] = attrs.field(factory=dict)
    histories: dict[bytes, list[tuple[bytes, bytes]]] = attrs.field(factory=dict)
    groups: dict[bytes, dict[bytes, tuple[bytes, bytes]]] = attrs.field(factory=dict)
    expiry: dict[bytes, float] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Session(Protocol):
    """A client's connection."""

    broker: Broker
    connection: Any = None
    authenticated: bool = False
    waiting: list[list[bytes]] = attrs.field(factory=list)
    reader: Any = attrs.field(factory=lambda: hiredis.Reader(notEnoughData=_NOTHING))

    def connection_made(self, connection: Any) -> None:
        self.connection = connection
        self.broker.sessions.append(self)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (command := self.reader.gets()) is not _NOTHING:
            self.waiting.append(command)
        self.go_on()

    def go_on(self) -> None:
        while self.waiting and not self.broker.hung and not self.connection.is_closing():
            self.broker.execute(self, *self.waiting.pop(0))

    def reply(self, reply: Any) -> None:
        self.connection.write(encode(reply))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.broker.sessions.remove(self)
        for sessions in self.broker.channels.values():
            sessions.pop(self, None)


class Broker:
    """The broker. Make it listen with `start`; `stop` ends it as a kill would.

    hung: it accepts and receives, but answers nothing. fault: called with the session and the command before
    each; a reply that it returns is sent instead, and the command not executed.
    """

    def __init__(self, reactor: Reactor, address: str, **options: str) -> None:
        self.reactor = reactor
        self.address = address
        self.options = {"appendonly": "yes", "appendfsync": "always", "version": "7.0.0", **options}
        self.data = Data()
        self.logs: dict[bytes, list[bytes]] = {}
        self.sessions: list[Session] = []
        self.channels: dict[bytes, dict[Session, None]] = {}
        self.loaded: dict[bytes, Callable[..., Any]] = {}
        self.commands: list[bytes] = []
        self.runs = 0
        self.hung = False
        self.maxmemory = 0
        self.fault: Callable[[Session, list[bytes]], Any] = lambda session, command: None
        self.start()

    # Its life

    def start(self) -> None:
        self.runs += 1
        self.loaded.clear()
        self.listener = self.reactor.listen(self.address, partial(Session, self))

    def stop(self) -> None:
        self.listener.close()
        for session in list(self.sessions):
            session.waiting.clear()
            session.connection.abort()

    def restart(self, data: Data | None = None) -> None:
        """Kill it and start it anew, with what it has, or with what `save` has returned before."""
        self.stop()
        if data is not None:
            self.data = copy.deepcopy(data)
        self.start()

    def save(self) -> Data:
        return copy.deepcopy(self.data)

    def hang(self) -> None:
        self.hung = True

    def resume(self) -> None:
        self.hung = False
        for session in list(self.sessions):
            session.go_on()

    # Commands

    def execute(self, session: Session, name: bytes, *args: bytes) -> None:
        self.commands.append(name)
        reply = self.fault(session, [name, *args])
        if reply is None:
            try:
                reply = getattr(self, f"do_{name.decode().lower()}")(session, *args)
            except Error as exc:
                reply = exc
        if reply is not None and not session.connection.is_closing():
            session.reply(None if reply == b"nil" else reply)

    def do_auth(self, session: Session, *credentials: bytes) -> str:
        if credentials[-1].decode() != self.options.get("password"):
            raise Error("WRONGPASS invalid username-password pair or user is disabled.")
        session.authenticated = True
        return "OK"

    def do_ping(self, session: Session) -> str:
        if "password" in self.options and not session.authenticated:
            raise Error("NOAUTH Authentication required.")
        return "PONG"

    def do_select(self, session: Session, database: bytes) -> str:
        return "OK"

    def do_info(self, session: Session, section: bytes) -> bytes:
        if section == b"server":
            return (
                f"# Server\r\nredis_version:{self.options['version']}\r\nrun_id:run{self.runs}\r\n".encode()
            )
        if section == b"memory":
            return f"# Memory\r\nmaxmemory:{self.maxmemory}\r\nmaxmemory_policy:allkeys-lru\r\n".encode()
        return b"# Replication\r\nrole:master\r\nmaster_replid2:" + b"0" * 40 + b"\r\n"

    def do_config(self, session: Session, get: bytes, option: bytes) -> list[bytes]:
        if self.options.get("config") == "denied":
            raise Error("NOPERM this user has no permissions to run the 'config|get' command")
        return [option, self.options[option.decode()].encode()]

    def do_script(self, session: Session, load: bytes, script: bytes) -> bytes:
        effects = {
            scripts.PUBLISH: self.publish, scripts.READ: self.read, scripts.TAKE: self.take,
            scripts.GIVE: self.give, scripts.HAND_OVER: self.hand_over, scripts.MEMBERS: self.members,
            scripts.CHECK: self.check,
        }  # fmt: skip
        name = digest(script.decode()).encode()
        self.loaded[name] = effects[script.decode()]
        return name

    def do_evalsha(self, session: Session, name: bytes, count: bytes, *rest: bytes) -> Any:
        if name not in self.loaded:
            raise Error("NOSCRIPT No matching script. Please use EVAL.")
        self.sweep()
        return self.loaded[name](*rest)

    def do_get(self, session: Session, key: bytes) -> bytes:
        self.sweep()
        return self.data.strings.get(key, b"nil")

    def do_set(self, session: Session, key: bytes, value: bytes, *options: bytes) -> Any:
        self.sweep()
        if (b"XX" in options and key not in self.data.strings) or (
            b"NX" in options and key in self.data.strings
        ):
            return b"nil"
        self.data.strings[key] = value
        self.expire(key, int(options[-1]) / (1000 if options[-2] == b"PX" else 1))
        return "OK"

    def do_del(self, session: Session, key: bytes) -> int:
        self.forget(key)
        return 1

    def do_expire(self, session: Session, key: bytes, seconds: bytes) -> int:
        self.expire(key, int(seconds))
        return 1

    def do_publish(self, session: Session, channel: bytes, payload: bytes) -> int:
        return self.post(channel, payload)

    def do_subscribe(self, session: Session, *channels: bytes) -> None:
        for channel in channels:
            self.channels.setdefault(channel, {})[session] = None
            session.reply([b"subscribe", channel, 1])

    def do_unsubscribe(self, session: Session, channel: bytes) -> None:
        self.channels.get(channel, {}).pop(session, None)
        session.reply([b"unsubscribe", channel, 0])

    def do_xrevrange(
        self, session: Session, key: bytes, plus: bytes, minus: bytes, word: bytes, count: bytes
    ) -> list[Any]:
        self.sweep()
        messages = self.data.histories.get(key, [])[-int(count) :]
        return [[ident, [b"d", data]] for ident, data in reversed(messages)]

    # Keys

    def expire(self, key: bytes, seconds: float) -> None:
        self.data.expiry[key] = self.reactor.time() + seconds

    def sweep(self) -> None:
        """Remove what has expired."""
        for key in [key for key, when in self.data.expiry.items() if when <= self.reactor.time()]:
            self.forget(key)

    def forget(self, key: bytes) -> None:
        for table in (self.data.strings, self.data.topics, self.data.histories, self.data.groups):
            table.pop(key, None)
        self.data.expiry.pop(key, None)

    def all_keys(self) -> list[bytes]:
        return [*self.data.strings, *self.data.topics, *self.data.histories, *self.data.groups]

    def flush(self) -> None:
        self.data = Data()

    def post(self, channel: bytes, payload: bytes) -> int:
        sessions = list(self.channels.get(channel, ()))
        for session in sessions:
            if not session.connection.is_closing():
                session.reply([b"message", channel, payload])
        return len(sessions)

    # Scripts

    def head(self, key: bytes, run: bytes, epoch: bytes, forget: bytes) -> dict[str, Any]:
        topic = self.data.topics.get(key)
        durable = topic is not None and topic["run"][-1:] == b"+"
        same = topic is not None and topic["run"].rstrip(b"+") == run.rstrip(b"+")
        if same or (durable and run[-1:] == b"+"):
            topic["run"] = run if durable else topic["run"]
        else:
            last = self.data.histories.get(key.replace(b"t:", b"h:", 1), [(b"0-0", b"")])[-1][0]
            old = topic or {"epoch": b"", "offset": offset(last), "time": order(last)[0]}
            base = b"%d-%d" % (old["time"], old["offset"])
            topic = {**old, "epoch": epoch, "run": run, "before": old["epoch"], "base": base}
            self.data.topics[key] = topic
        self.expire(key, int(forget))
        return topic

    def publish(self, key: bytes, history: bytes, publisher: bytes, run: bytes, epoch: bytes, forget: bytes,
                number: bytes, data: bytes, length: bytes, age: bytes) -> int:  # fmt: skip
        last = self.data.strings.get(publisher)
        if last is not None and int(number) <= int(last):
            return 0
        if last is None or int(number) != int(last) + 1:
            raise Error("ORDER the message before this one is missing")
        topic = self.head(key, run, epoch, forget)
        topic["time"] = max(topic["time"], int(self.reactor.time() * 1000))
        topic["offset"] += 1
        ident = b"%d-%d" % (topic["time"], topic["offset"])
        messages = self.data.histories.setdefault(history, [])
        messages.append((ident, data))
        del messages[: -int(length)]
        oldest = topic["time"] - int(age)
        messages[:] = [each for each in messages if int(each[0].partition(b"-")[0]) >= oldest]
        self.expire(history, int(age) / 1000)
        self.data.strings[publisher] = number
        self.expire(publisher, int(forget))
        self.logs.setdefault(key, []).append(data)
        self.post(key, b"%s %s %s" % (topic["epoch"], ident, data))
        return 1

    def read(self, key: bytes, history: bytes, run: bytes, new: bytes, forget: bytes, epoch: bytes,
             last: bytes, count: bytes, size: bytes) -> list[Any]:  # fmt: skip
        topic = self.head(key, run, new, forget)
        head = b"%d-%d" % (topic["time"], topic["offset"])
        facts = [topic["epoch"], head, topic["before"], topic["base"]]
        if not epoch:
            return [*facts, [], 1]
        after = topic["base"]
        if epoch == topic["epoch"] or (epoch == topic["before"] and offset(last) < offset(topic["base"])):
            after = last
        messages = self.data.histories.get(history, [])
        later = [(ident, data) for ident, data in messages if order(ident) > order(after)]
        found: list[Any] = []
        step = 1
        while len(found) < int(count) and sum(len(fields[1]) for _, fields in found) < int(size):
            part = later[len(found) : len(found) + step]
            found += [[ident, [b"d", data]] for ident, data in part]
            if len(part) < step:
                return [*facts, found, 1]
            step = min(2 * step, 16)
        return [*facts, found, 0]

    def alive(self, owner: bytes) -> bool:
        if owner.startswith(b"@"):
            return int(owner[1:]) > self.reactor.time() * 1000
        return owner in self.data.strings

    def take(self, group: bytes, name: bytes, node: bytes, token: bytes, forget: bytes, old: bytes) -> int:
        if not self.alive(node):
            return -1
        names = self.data.groups.setdefault(group, {})
        owner, known = names.get(name, (old, token))
        if known != token and owner != old and self.alive(owner):
            return 0
        names[name] = node, token
        self.expire(group, int(forget))
        return 1

    def give(self, group: bytes, name: bytes, node: bytes, token: bytes) -> int:
        names = self.data.groups.get(group, {})
        if names.get(name) != (node, token):
            return 0
        del names[name]
        return 1

    def hand_over(self, group: bytes, name: bytes, node: bytes, token: bytes, ms: bytes) -> int:
        names = self.data.groups.get(group, {})
        if names.get(name) != (node, token):
            return 0
        names[name] = b"@%d" % (self.reactor.time() * 1000 + int(ms)), token
        return 1

    def check(self, *keys: bytes) -> list[Any]:
        return []

    def members(self, group: bytes) -> list[bytes]:
        names = self.data.groups.get(group, {})
        for name in [name for name, (owner, _) in names.items() if not self.alive(owner)]:
            del names[name]
        return list(names)
