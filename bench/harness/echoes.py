"""Echo servers on every loop, each as the loop's documentation recommends, plain or with an idle timeout.

idle: the seconds of the timeout, as a word; an empty one for none. Where a loop has timeouts of its own for
this, they are used; the others cancel and set a timer for each message, as their users do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bench.harness.native import compiled
from bench.harness.servers import BACKLOG, RECV_SIZE, announce, end_with_input

__all__ = [
    "ECHOES",
    "TIMED_ECHOES",
    "Create",
    "fast_create",
    "on_asyncio",
    "on_rloop",
    "on_uvloop",
    "reactor_echo",
    "serve_protocol",
    "serve_reactor",
    "serve_threads",
    "standard_create",
    "until_stopped",
]

Create = Callable[..., Awaitable[Any]]


# This project


def reactor_echo() -> Callable[[], Any]:
    """Return a protocol of this project that echoes."""
    from reactor import Connection, Protocol

    class Echo(Protocol):
        __slots__ = ("connection",)

        def connection_made(self, connection: Connection) -> None:
            self.connection = connection

        def data_received(self, data: bytes) -> None:
            self.connection.write(data)

    return Echo


def serve_reactor(make_factory: Callable[[Any], Callable[[], Any]], idle: str = "", **options: Any) -> None:
    """Serve the protocols of `make_factory(reactor)`; the options are those of `Reactor.listen`."""
    from reactor import Reactor, Timeouts

    with Reactor() as reactor:
        timeouts = Timeouts(idle=float(idle) if idle else None)
        factory = make_factory(reactor)
        listener = reactor.listen("127.0.0.1:0", factory, timeouts=timeouts, backlog=BACKLOG, **options)
        announce(listener.addresses[0].port or 0)
        reactor.add_reader(0, reactor.stop)
        reactor.run()


def _reactor(idle: str = "") -> None:
    serve_reactor(lambda _: reactor_echo(), idle)


def _reactor_timed() -> None:
    """Echo with the detection of slow callbacks on."""
    from reactor import Reactor

    with Reactor(slow_callback=0.1) as reactor:
        listener = reactor.listen("127.0.0.1:0", reactor_echo(), backlog=BACKLOG)
        announce(listener.addresses[0].port or 0)
        reactor.add_reader(0, reactor.stop)
        reactor.run()


# Loops with asyncio's interface


def on_asyncio(main: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that runs the coroutine function `main` on asyncio's own loop."""
    return lambda *words: asyncio.run(main(*words))


def on_uvloop(main: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that runs the coroutine function `main` on uvloop."""

    def serve(*words: str) -> None:
        import uvloop

        uvloop.run(main(*words))

    return serve


def on_rloop(main: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that runs the coroutine function `main` on rloop."""

    def serve(*words: str) -> None:
        import rloop

        with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
            runner.run(main(*words))

    return serve


def standard_create(*words: Any, **options: Any) -> Awaitable[Any]:
    """Return the `create_server` of the running loop."""
    return asyncio.get_running_loop().create_server(*words, **options)


def fast_create(*words: Any, **options: Any) -> Awaitable[Any]:
    """Return `aiofastnet.create_server` for the running loop."""
    import aiofastnet

    made: Awaitable[Any] = aiofastnet.create_server(asyncio.get_running_loop(), *words, **options)
    return made


async def serve_protocol(
    factory: Callable[[], Any], create: Create = standard_create, **options: Any
) -> None:
    """Serve the protocols of `factory`, on the running loop, until the standard input ends."""
    server = await create(factory, "127.0.0.1", 0, backlog=BACKLOG, **options)
    announce(server.sockets[0].getsockname()[1])
    await until_stopped()


async def until_stopped() -> None:
    """Wait until the standard input ends."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)
    await ended.wait()


class Echo(asyncio.Protocol):
    """Echoes."""

    __slots__ = ("transport",)

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


class TimedEcho(asyncio.Protocol):
    """Echoes, and aborts a connection without a message for `idle` seconds."""

    __slots__ = ("idle", "loop", "timer", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: float) -> None:
        self.loop = loop
        self.idle = idle

    def connection_made(self, transport: Any) -> None:
        """Set the timer."""
        self.transport = transport
        self.timer = self.loop.call_later(self.idle, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Send it back, and set the timer again."""
        self.timer.cancel()
        self.timer = self.loop.call_later(self.idle, self.transport.abort)
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self.timer.cancel()


async def _protocol(create: Create, idle: str = "") -> None:
    loop = asyncio.get_running_loop()
    await serve_protocol(partial(TimedEcho, loop, float(idle)) if idle else Echo, create)


# Frameworks


def _twisted(idle: str = "") -> None:
    from twisted.internet import reactor as loop
    from twisted.internet.protocol import Factory
    from twisted.internet.protocol import Protocol as TwistedProtocol
    from twisted.protocols.policies import TimeoutMixin

    class Echo(TwistedProtocol):
        def connectionMade(self) -> None:
            self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data)  # type: ignore[union-attr, call-arg, misc]

    class TimedEcho(Echo, TimeoutMixin):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.setTimeout(float(idle))  # type: ignore[no-untyped-call]

        def dataReceived(self, data: bytes) -> None:
            self.resetTimeout()  # type: ignore[no-untyped-call]
            super().dataReceived(data)

        def connectionLost(self, reason: Any = None) -> None:
            self.setTimeout(None)  # type: ignore[no-untyped-call]

    running: Any = loop
    factory = Factory.forProtocol(TimedEcho if idle else Echo)
    port = running.listenTCP(0, factory, backlog=BACKLOG, interface="127.0.0.1")
    end_with_input()
    announce(port.getHost().port)
    running.run()


async def _tornado_main(idle: str = "") -> None:
    from datetime import timedelta

    from tornado.gen import with_timeout
    from tornado.iostream import StreamClosedError
    from tornado.netutil import bind_sockets
    from tornado.tcpserver import TCPServer
    from tornado.util import TimeoutError as IdleError

    class Server(TCPServer):
        async def handle_stream(self, stream: Any, address: Any) -> None:
            stream.set_nodelay(True)
            limit = timedelta(seconds=float(idle)) if idle else None
            try:
                while True:
                    reading = stream.read_bytes(RECV_SIZE, partial=True)
                    await stream.write(await (with_timeout(limit, reading) if limit else reading))
            except StreamClosedError:
                pass
            except IdleError:
                stream.close()

    sockets = bind_sockets(0, "127.0.0.1", backlog=BACKLOG)
    Server().add_sockets(sockets)
    announce(sockets[0].getsockname()[1])
    await until_stopped()


def _gevent(idle: str = "") -> None:
    import gevent
    from gevent.server import StreamServer

    def echo(connection: Any, _: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError), connection:
            while data := connection.recv(RECV_SIZE):
                connection.sendall(data)

    def timed_echo(connection: Any, _: Any) -> None:
        connection.settimeout(float(idle))
        with contextlib.suppress(TimeoutError):
            echo(connection, _)

    server = StreamServer(("127.0.0.1", 0), timed_echo if idle else echo, backlog=BACKLOG)
    server.start()
    announce(server.server_port)
    gevent.get_hub().loop.io(0, 1).start(os._exit, 0)
    gevent.wait()


def _trio(idle: str = "") -> None:
    import trio

    async def echo(stream: trio.SocketStream) -> None:
        try:
            while data := await stream.receive_some(RECV_SIZE):
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async def timed_echo(stream: trio.SocketStream) -> None:
        with trio.move_on_after(float(idle)) as scope, contextlib.suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(RECV_SIZE):
                scope.deadline = trio.current_time() + float(idle)
                await stream.send_all(data)

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
        announce(listener.socket.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, timed_echo if idle else echo, [listener])
            await trio.lowlevel.wait_readable(0)
            nursery.cancel_scope.cancel()

    trio.run(main)


def _pyftpdlib(idle: str = "") -> None:
    from pyftpdlib.ioloop import Acceptor, AsyncChat, IOLoop

    class Handler(AsyncChat):  # type: ignore[misc]
        ac_in_buffer_size = RECV_SIZE

        def __init__(self, connection: socket.socket) -> None:
            super().__init__(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.set_terminator(None)

        def collect_incoming_data(self, data: bytes) -> None:
            self.push(data)

    class TimedHandler(Handler):
        def __init__(self, connection: socket.socket) -> None:
            super().__init__(connection)
            self.timer = self.call_later(float(idle), self.close)

        def collect_incoming_data(self, data: bytes) -> None:
            self.timer.reset()
            self.push(data)

    class Server(Acceptor):  # type: ignore[misc]
        def handle_accepted(self, connection: socket.socket, _: Any) -> None:
            (TimedHandler if idle else Handler)(connection)

    server = Server()
    server.bind_af_unspecified(("127.0.0.1", 0))
    server.listen(BACKLOG)
    end_with_input()
    announce(server.socket.getsockname()[1])
    IOLoop.instance().loop()


def serve_threads(module: Any, idle: str = "") -> None:
    """Serve by a thread for each connection, with the classes of `module`, which is like `socketserver`."""

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.request.settimeout(float(idle) if idle else None)
            with contextlib.suppress(ConnectionError, TimeoutError):
                while data := self.request.recv(RECV_SIZE):
                    self.request.sendall(data)

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        daemon_threads = True
        request_queue_size = BACKLOG

    with Server(("127.0.0.1", 0), Handler) as server:
        end_with_input()
        announce(server.server_address[1])
        server.serve_forever()


def _socketserver(idle: str = "") -> None:
    import socketserver

    serve_threads(socketserver, idle)


# Without a loop


def _selectors() -> None:
    """Echo with a selector, and nothing between it and the sockets."""
    selector = selectors.DefaultSelector()
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setblocking(False)
    selector.register(listening, selectors.EVENT_READ, "listening")
    selector.register(0, selectors.EVENT_READ, "input")
    announce(listening.getsockname()[1])
    while True:
        for key, _ in selector.select():
            if key.data is None:
                _echo_once(selector, key.fileobj)
            elif key.data == "listening":
                client, _ = listening.accept()
                client.setblocking(False)
                selector.register(client, selectors.EVENT_READ)
            else:
                return


def _echo_once(selector: selectors.BaseSelector, client: Any) -> None:
    try:
        data = client.recv(RECV_SIZE)
        sent = client.send(data)
        while sent < len(data):  # the socket is full: a deep pipeline of large messages
            with contextlib.suppress(BlockingIOError):
                sent += client.send(data[sent:])
    except ConnectionError:
        data = b""
    if not data:
        selector.unregister(client)
        client.close()


def _epoll() -> None:
    """Become the server in C."""
    program = compiled("epoll")
    if program is None:
        sys.exit("a C compiler is missing: apt-get install build-essential")
    os.execv(program, [str(program)])


ECHOES: dict[str, Callable[..., None]] = {
    "reactor": _reactor,
    "uvloop": on_uvloop(partial(_protocol, standard_create)),
    "asyncio": on_asyncio(partial(_protocol, standard_create)),
    "aiofastnet": on_uvloop(partial(_protocol, fast_create)),
    "rloop": on_rloop(partial(_protocol, standard_create)),
    "twisted": _twisted,
    "tornado": on_asyncio(_tornado_main),
    "gevent": _gevent,
    "trio": _trio,
    "pyftpdlib": _pyftpdlib,
    "socketserver": _socketserver,
    "selectors": _selectors,
    "epoll": _epoll,
    "timed": _reactor_timed,
}

#: Without those that have no timeouts, and without rloop: `abort` of 0.5.0 leaves the socket open.
TIMED_ECHOES = {
    name: serve for name, serve in ECHOES.items() if name not in {"rloop", "selectors", "epoll", "timed"}
}
