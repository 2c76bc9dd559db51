"""Processes with a backplane. Arguments: a role and its parameters; they answer in lines of JSON.

worker: publishes to all topics, and checks that it gets what all have published. send, receive: latency, of
ours or redis-py's. server: sends what one member says to all. topics: memory. watch: changes of the state.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import struct
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

from reactor import Connection, Protocol, Reactor
from reactor.backplane import Backplane, BackplaneState, LocalBackplane, RedisBackplane
from reactor.backplane.interface import MessageHandler

__all__ = ["ROLES", "main"]

_MESSAGE = struct.Struct("!II56x")  # publisher, number
_STAMP = struct.Struct("!d56x")  # when it was published
_PUBLISHERS = 4  # workers
_UNACKNOWLEDGED = 1000  # messages of a worker that are on their way
_TICK = 0.001  # seconds between two times at which messages are sent
_QUIET = 0.2  # seconds within which something is looked at again


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


@attrs.define
class Check:
    """The numbers that a worker has received last, by topic and publisher, and what is wrong with them.

    A hole is accounted for if so many messages of the topic were reported as missing, or if a gap of unknown
    size was since the last message of that publisher.
    """

    last: dict[tuple[str, int], int] = attrs.field(factory=dict)
    reported: Counter[str] = attrs.field(factory=Counter)
    open: dict[str, set[int]] = attrs.field(factory=dict)
    counts: Counter[str] = attrs.field(factory=Counter)

    def message(self, topic: str, data: bytes) -> None:
        """Compare a message with the one before."""
        publisher, number = _MESSAGE.unpack(data)
        before = self.last.get((topic, publisher), 0)
        if number <= before:
            self.counts["doubled"] += 1
            return
        if number > before + 1:
            self.hole(topic, publisher, number - before - 1)
        if topic in self.open:
            self.open[topic].discard(publisher)
        self.last[topic, publisher] = number
        self.counts["received"] += 1

    def hole(self, topic: str, publisher: int, size: int) -> None:
        """Account for missing messages of a publisher."""
        self.counts["missing"] += size
        if publisher not in self.open.get(topic, ()):
            told = min(size, self.reported[topic])
            self.reported[topic] -= told
            self.counts["silent"] += size - told

    def gap(self, topic: str, missed: int | None) -> None:
        """Note what was reported."""
        if missed is None:
            self.counts["unknown"] += 1
            self.open[topic] = set(range(_PUBLISHERS))
        else:
            self.counts["told"] += missed
            self.reported[topic] += missed

    def finish(self, names: list[str], each: int) -> None:
        """Account for the last messages, of which each publisher has sent `each` to each topic."""
        for name in names:
            for publisher in range(_PUBLISHERS):
                last = self.last.get((name, publisher), 0)
                if last < each:
                    self.hole(name, publisher, each - last)


def worker(url: str, number: str, topics: str, messages: str, history: str) -> None:
    """Publish `messages` to `topics` topics in turn, and check what comes.

    Commands: "go", "report", "finish".
    """
    names, total, check = [f"topic{i}" for i in range(int(topics))], int(messages), Check()
    sent: Counter[str] = Counter()
    done = 0

    def publish() -> None:
        nonlocal done
        room = _UNACKNOWLEDGED - backplane.stats().queued
        for _ in range(min(room, total - done)):
            topic = names[done % len(names)]
            if not backplane.publish(topic, _MESSAGE.pack(int(number), sent[topic] + 1)):
                break
            sent[topic] += 1
            done += 1
        if done < total:
            reactor.call_later(_TICK, publish)

    def on_input() -> None:
        data = os.read(sys.stdin.fileno(), 4096)  # several commands may have come: `readline` would keep one
        if not data:
            reactor.stop()
        for command in data.decode().split():
            on_command(command)

    def on_command(command: str) -> None:
        match command:
            case "go":
                publish()
            case "finish":
                check.finish(names, total // len(names))
                _say(**check.counts)
            case "report":
                counts = backplane.stats()
                _say(
                    sent=done, queued=counts.queued, state=backplane.state.value, deaf=counts.deaf,
                    recovered=counts.recovered, **check.counts,
                )  # fmt: skip

    with Reactor() as reactor, RedisBackplane(reactor, url, history=int(history)) as backplane:
        for name in names:
            backplane.subscribe(name, check.message, check.gap)
        reactor.add_reader(sys.stdin, on_input)
        _when_up(reactor, backplane)
        reactor.run()


def _when_up(reactor: Reactor, backplane: Backplane, **facts: Any) -> None:
    """Say that it is ready when messages pass, and the topics had time to be subscribed."""
    if backplane.state is BackplaneState.UP:
        reactor.call_later(_QUIET, lambda: _say(ready=True, **facts))
    else:
        reactor.call_later(_QUIET / 10, lambda: _when_up(reactor, backplane, **facts))


# Latency


def send(kind: str, url: str, rate: str, seconds: str) -> None:
    """Publish `rate` messages a second, each stamped with its time."""
    if kind == "redis-py":
        asyncio.run(_send_asyncio(url, float(rate), float(seconds)))
        return
    with Reactor() as reactor, RedisBackplane(reactor, url) as backplane:
        while backplane.state is not BackplaneState.UP:
            reactor.run_once(_QUIET)
        begun, number = time.monotonic(), 0

        def tick() -> None:
            nonlocal number
            now = time.monotonic() - begun
            while number < now * float(rate):
                backplane.publish("latency", _STAMP.pack(time.monotonic()))
                number += 1
            if now < float(seconds):
                reactor.call_later(_TICK, tick)
            else:
                reactor.stop()

        reactor.call_soon(tick)
        reactor.run()
        while backplane.stats().queued:
            reactor.run_once(_QUIET)
    _say(sent=number)


async def _send_asyncio(url: str, rate: float, seconds: float) -> None:
    from redis.asyncio import Redis

    client = Redis.from_url(url)
    begun, number = time.monotonic(), 0
    while (now := time.monotonic() - begun) < seconds:
        pipeline = client.pipeline(transaction=False)
        while number < now * rate:
            pipeline.publish("latency", _STAMP.pack(time.monotonic()))
            number += 1
        await pipeline.execute()
        await asyncio.sleep(_TICK)
    await client.aclose()
    _say(sent=number)


def receive(kind: str, url: str) -> None:
    """Receive until nothing comes any more; answer with the median and the p99 of the latency, seconds."""
    took: list[float] = []

    def on_message(topic: str, data: bytes) -> None:
        took.append(time.monotonic() - _STAMP.unpack(data)[0])

    if kind == "redis-py":
        asyncio.run(_receive_asyncio(url, on_message))
    else:
        with Reactor() as reactor, RedisBackplane(reactor, url) as backplane:
            backplane.subscribe("latency", on_message)
            _when_up(reactor, backplane)
            reactor.add_reader(sys.stdin, reactor.stop)
            reactor.run()
    cpu = time.process_time()
    took.sort()
    _say(received=len(took), p50=took[len(took) // 2], p99=took[len(took) * 99 // 100], cpu=cpu)


async def _receive_asyncio(url: str, on_message: MessageHandler) -> None:
    from redis.asyncio import Redis

    client = Redis.from_url(url)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)

    async def listen() -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                on_message("latency", message["data"])

    async with client.pubsub() as pubsub:
        await pubsub.subscribe("latency")
        _say(ready=True)
        task = asyncio.create_task(listen())
        await stopped.wait()
        task.cancel()
    await client.aclose()


# One topic with many members


def server(kind: str, url: str) -> None:
    """Send what a member says to all, through a backplane or, for the kind "direct", without one."""
    members: dict[Connection, None] = {}

    def broadcast(topic: str, data: bytes) -> None:
        for member in members:
            member.write(data)

    class Member(Protocol):
        def connection_made(self, connection: Connection) -> None:
            self.connection = connection
            members[connection] = None

        def data_received(self, data: bytes) -> None:
            if backplane is None:
                broadcast("room", data)
            else:
                backplane.publish("room", data)

        def connection_lost(self, exc: BaseException | None) -> None:
            del members[self.connection]

    with Reactor() as reactor:
        backplane: Backplane | None = None
        if kind != "direct":
            backplane = LocalBackplane(reactor) if kind == "local" else RedisBackplane(reactor, url)
        listener = reactor.listen("127.0.0.1:0", Member)
        port = listener.addresses[0].port
        if backplane is None:
            _say(ready=True, port=port)
        else:
            backplane.subscribe("room", broadcast)
            _when_up(reactor, backplane, port=port)
        reactor.run()


def topics(kind: str, url: str, number: str) -> None:
    """Answer with the memory of a subscribed topic, bytes."""
    came: list[bytes] = []

    def on_message(topic: str, data: bytes) -> None:
        came.append(data)

    with Reactor() as reactor:
        backplane: Backplane = LocalBackplane(reactor) if kind == "local" else RedisBackplane(reactor, url)
        while backplane.state is not BackplaneState.UP:
            reactor.run_once(_QUIET)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for index in range(int(number)):
            backplane.subscribe(f"topic number {index}", on_message)
        backplane.publish(f"topic number {index}", b"")  # it comes when all are subscribed
        while not came:
            reactor.run_once(_QUIET)
        gc.collect()
        _say(bytes=(tracemalloc.get_traced_memory()[0] - before) / int(number))
        os._exit(0)  # the names of all topics need not be given back


def watch(url: str) -> None:
    """Answer with each change of the state, and when it was."""
    with Reactor() as reactor, RedisBackplane(reactor, url) as backplane:
        state = None

        def look() -> None:
            nonlocal state
            if backplane.state is not state:
                state = backplane.state
                _say(state=state.value, at=time.monotonic())
            reactor.call_later(0.005, look)

        look()
        reactor.run()


ROLES: dict[str, Callable[..., None]] = {
    "worker": worker, "send": send, "receive": receive, "server": server, "topics": topics, "watch": watch,
}  # fmt: skip


def main() -> None:
    """Play a role until standard input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the benchmark has pinned itself
    ROLES[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
