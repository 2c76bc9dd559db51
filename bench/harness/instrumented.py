"""Servers that report what they observe: `python -m bench.harness.instrumented KIND PLAN CORE`.

KIND is reactor, asyncio or uvloop, PLAN a `Plan` as JSON. The protocols are the same objects for all three.
The port is printed as a line. Each line on standard input is a question, answered with a line of JSON:
`observed` is answered with the observations since the last one, `held` (reactor only) with what is open now.
The process ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import selectors
import socket
import sys
from collections.abc import Callable
from typing import Any

import attrs

from bench.harness import missing
from bench.harness.apps import APPS, Observations
from bench.harness.clients import raise_descriptor_limit, run_first
from bench.harness.servers import BACKLOG, announce, warm_up_allocator

__all__ = ["KINDS", "Plan"]


@attrs.frozen
class Plan:
    """The set-up of a server.

    app: a name in `APPS`. limits, timeouts: the fields of ours. For the peers, which have none, only
    `timeouts["idle"]` is set, by a timer for each connection, as their users do.
    timer: seconds between two calls of a repeating timer that is measured. ticks: measure
    each tick, without its wait. collect: leave the garbage collector on. descriptors: the limit of
    open files. first: run before all other processes on the core, where that is allowed.
    backlog: as listen(2) has it. send_buffer: the kernel's, for each connection (ours only).
    proxy_timeout: seconds in which a connection must send a PROXY header; None for none of them (ours only).
    """

    app: str = "echo"
    limits: dict[str, int | str] = attrs.field(factory=dict)
    timeouts: dict[str, float] = attrs.field(factory=dict)
    timer: float | None = None
    ticks: bool = False
    collect: bool = True
    descriptors: int | None = None
    first: bool = False
    backlog: int = BACKLOG
    send_buffer: int | None = None
    proxy_timeout: float | None = None


def serve_reactor(plan: Plan, observations: Observations) -> None:
    """Serve with this project."""
    from reactor import Connection, Limits, ProxyProtocol, Reactor, Timeouts
    from reactor.reactor import loop_of

    app = APPS[plan.app]
    with Reactor() as reactor:
        registry = loop_of(reactor).registry
        if plan.ticks:
            registry.poll = observations.timed(registry.poll)
        listener = reactor.listen(
            "127.0.0.1:0",
            lambda: app(observations, reactor),
            limits=Limits(**plan.limits),  # type: ignore[arg-type]  # validated when made
            timeouts=Timeouts(**plan.timeouts),
            backlog=plan.backlog,
            options=_socket_options(plan),
            proxy_protocol=None
            if plan.proxy_timeout is None
            else ProxyProtocol(trusted=["127.0.0.1"], timeout=plan.proxy_timeout),
        )

        def held() -> dict[str, Any]:
            gc.collect()
            stats = reactor.stats()
            ended = sum(stats.closed.values())
            return {
                "held": {
                    "connections": listener.connections,
                    "lingering sockets": stats.lingering,
                    "queued bytes": stats.queued_bytes,
                    "selector map": len(registry.selector.get_map()),
                    "connection objects": sum(isinstance(made, Connection) for made in gc.get_objects()),
                    "accepted and not ended": stats.accepted - ended,
                    "ended without connection_lost": ended - sum(observations.lost.values()),
                    "exceptions": stats.handler_errors,
                },
                "ended": dict(stats.closed),
                "refused": dict(stats.refused),
            }

        announce(listener.addresses[0].port or 0)
        _attend(reactor, plan, observations, {"observed": observations.take, "held": held}, reactor.stop)
        reactor.run()


def _socket_options(plan: Plan) -> list[tuple[int, int, int]]:
    if plan.send_buffer is None:
        return []
    return [(socket.SOL_SOCKET, socket.SO_SNDBUF, plan.send_buffer)]  # accepted sockets inherit it


def serve_asyncio(plan: Plan, observations: Observations) -> None:
    """Serve with asyncio's own loop."""
    selector = selectors.DefaultSelector()
    if plan.ticks:
        selector.select = observations.timed(selector.select)  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(_serve_protocol(plan, observations))


def serve_uvloop(plan: Plan, observations: Observations) -> None:
    """Serve with uvloop."""
    import uvloop

    uvloop.run(_serve_protocol(plan, observations))


async def _serve_protocol(plan: Plan, observations: Observations) -> None:
    loop = asyncio.get_running_loop()
    app: Any = APPS[plan.app]
    if "idle" in plan.timeouts:
        app = _self_timed(app, loop, plan.timeouts["idle"])
    server = await loop.create_server(lambda: app(observations, loop), "127.0.0.1", 0, backlog=plan.backlog)
    announce(server.sockets[0].getsockname()[1])
    done = loop.create_future()
    _attend(loop, plan, observations, {"observed": observations.take}, done.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await done


def _self_timed(app: Any, loop: asyncio.AbstractEventLoop, idle: float) -> Any:
    class Timed(app):  # type: ignore[misc]
        __slots__ = ("timer",)

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timer = loop.call_later(idle, transport.abort)

        def data_received(self, data: bytes) -> None:
            self.timer.cancel()
            self.timer = loop.call_later(idle, self.transport.abort)
            super().data_received(data)

        def connection_lost(self, exc: BaseException | None) -> None:
            self.timer.cancel()
            super().connection_lost(exc)

    return Timed


def _attend(
    loop: Any,
    plan: Plan,
    observations: Observations,
    answers: dict[str, Callable[[], dict[str, Any]]],
    stop: Callable[[], object],
) -> None:
    def on_input() -> None:
        words = os.read(0, 4096).decode().split()
        if not words:
            loop.remove_reader(0)
            stop()
        for word in words:
            sys.stdout.write(json.dumps(answers[word]()) + "\n")
            sys.stdout.flush()

    loop.add_reader(0, on_input)
    if plan.timer is not None:
        observations.watch_clock(loop, plan.timer)


KINDS = {"reactor": serve_reactor, "uvloop": serve_uvloop, "asyncio": serve_asyncio}


def main() -> None:
    """Run the server named on the command line."""
    _, kind, plan, core = sys.argv
    if hasattr(os, "sched_setaffinity") and core != "any":
        os.sched_setaffinity(0, {int(core)})
    made = Plan(**json.loads(plan))
    raise_descriptor_limit()
    if made.descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (made.descriptors, made.descriptors))
    if not made.collect:
        gc.disable()
    if made.first:
        run_first()
    warm_up_allocator()
    try:
        KINDS[kind](made, Observations())
    except ImportError as exc:
        sys.exit(missing(exc))


if __name__ == "__main__":
    main()
