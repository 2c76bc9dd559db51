"""The programs that tutorials on TCP servers show, each with its counterpart here, at 1 client and at 1,000.

The exchange is the one that such a text shows for its program, byte for byte; the programs are written anew.
"""

import contextlib
import resource
import selectors
import socket
import threading

import pytest

from reactor import Limits, Protocol, Reactor
from reactor.apps.echo import Echo
from reactor.compat import socketserver
from reactor.framed import FramedProtocol
from reactor.framing import Lines
from reactor.pool import Pool
from reactor.streams import handler
from tests.helpers import DEADLINE, serving

MANY = 1000


@pytest.fixture(autouse=True)
def _descriptors_for_all():
    """Both ends of a thousand connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * MANY)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# The servers. Each is used as `with server() as address`.


@contextlib.contextmanager
def reactor_with(factory, *, selector=None, **options):
    """Serve on a thread, as the programs do in a process of their own."""
    with Reactor(selector=selector) as reactor:
        listener = reactor.listen("127.0.0.1:0", factory, backlog=MANY, **options)
        thread = threading.Thread(target=reactor.run)
        thread.start()
        try:
            yield listener.addresses[0].host, listener.addresses[0].port
        finally:
            reactor.stop()
            thread.join(DEADLINE)


def sequential_echo():
    """The loop that serves one client after the other, in chunks of 1,024: here they are served at once."""
    return reactor_with(Echo)


def greeting():
    """Accepts, sends "TEST", and closes."""

    class Test(Protocol):
        def connection_made(self, connection):
            connection.write(b"TEST")
            connection.close()

    return reactor_with(Test)


def threaded_echo():
    """The class with a thread for each client, and a timeout of 60 s: here a coroutine for each."""

    async def serve(stream):
        with stream.timeout(60):
            while data := await stream.receive(1024):
                await stream.send(data)

    return reactor_with(handler(serve))


def blocking_echo():
    """A function with `recv` and `sendall` on a thread of its own: here of a pool."""

    def serve(connection):
        with connection:
            while data := connection.recv(1024):
                connection.sendall(data)

    return reactor_with(Pool(serve, workers=64))


def selectors_echo():
    """Callbacks on a `selectors.DefaultSelector`, which the reactor has as well."""
    return reactor_with(Echo, selector=selectors.DefaultSelector())


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(8192):
            self.request.send(data)


class LineHandler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


@contextlib.contextmanager
def served(server, threads=1):
    with serving(server, threads):
        yield server.server_address


def socketserver_with(name, handler_class, *, threads=1, **attributes):
    base = getattr(socketserver, name)
    made = type("Server", (base,), {"request_queue_size": MANY, "daemon_threads": True, **attributes})
    return served(made(("127.0.0.1", 0), handler_class), threads)


def in_two_steps():
    """Bound by hand, after an option was set."""
    server = socketserver.TCPServer(("127.0.0.1", 0), LineHandler, bind_and_activate=False)
    server.request_queue_size = MANY
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    server.server_bind()
    server.server_activate()
    return served(server)


def framed_lines():
    """The line handler, as a protocol."""

    class LineEcho(FramedProtocol):
        def __init__(self):
            super().__init__(Lines())

        def frame_received(self, frame):
            self.send(frame)

    return reactor_with(LineEcho)


HELLO = [(b"Hello World\n", b"Hello World\n")]
SERVERS = {
    "sequential": (sequential_echo, [*HELLO, (b"again\n", b"again\n")]),
    "greeting": (greeting, [(b"", b"TEST")]),
    "thread for each client": (threaded_echo, [(b"hello", b"hello"), (b"x" * 3000, b"x" * 3000)]),
    "one client": (blocking_echo, [(b"Hello, server!", b"Hello, server!")]),
    "selectors": (selectors_echo, [(b"Hello, server!", b"Hello, server!")]),
    "socketserver": (lambda: socketserver_with("TCPServer", EchoHandler), [(b"Hello\n", b"Hello\n")]),
    "socketserver, lines": (lambda: socketserver_with("TCPServer", LineHandler), [(b"Hello\n", b"Hello\n")]),
    "lines": (framed_lines, [(b"Hello\n", b"Hello\n")]),
    "socketserver, threads": (
        lambda: socketserver_with("ThreadingTCPServer", LineHandler),
        [(b"Hello\n", b"Hello\n"), (b"twice\n", b"twice\n")],
    ),
    "socketserver, processes": (
        lambda: socketserver_with("ForkingTCPServer", LineHandler),
        [(b"Hello\n", b"Hello\n")],
    ),
    "socketserver, 16 threads serve": (
        lambda: socketserver_with("TCPServer", LineHandler, threads=16),
        [(b"Hello\n", b"Hello\n")],
    ),
    "socketserver, in two steps": (in_two_steps, [(b"Hello\n", b"Hello\n")]),
    "socketserver, reused address": (
        lambda: socketserver_with("TCPServer", LineHandler, allow_reuse_address=True),
        [(b"Hello\n", b"Hello\n")],
    ),
}

#: Those that serve a bounded number of clients at once: the others wait until these have left.
ONE_AFTER_THE_OTHER = {name for name in SERVERS if "socketserver" in name} | {"one client"}


@pytest.fixture(params=list(SERVERS))
def program(request):
    make, exchange = SERVERS[request.param]
    return request.param, make, exchange


def ask(client, exchange):
    """Send each word, and expect its answer."""
    for sent, expected in exchange:
        client.sendall(sent)
        got = b""
        while len(got) < len(expected):
            more = client.recv(65536)
            assert more, f"the server closed after {got!r}"
            got += more
        assert got == expected


def connected(address):
    return socket.create_connection(address, timeout=DEADLINE)


def leave(client):
    """Close; with an end of file although a child of the server may hold a copy of this descriptor."""
    client.shutdown(socket.SHUT_RDWR)
    client.close()


def test_exchange_with_one_client(program):
    _, make, exchange = program
    with make() as address:
        for _ in range(2):
            with connected(address) as client:
                ask(client, exchange)
                leave(client)


@pytest.mark.slow
def test_exchange_with_a_thousand_clients(program):
    """All are connected at once; where fewer are served at once, the others wait."""
    name, make, exchange = program
    with make() as address, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(MANY)]
        if name not in ONE_AFTER_THE_OTHER:
            for client in clients:
                ask(client, exchange[:1])
        for client in clients:
            ask(client, exchange[(name not in ONE_AFTER_THE_OTHER) :])
            leave(client)


def test_clients_above_max_connections_are_refused_at_once():
    """A thousand clients with `max_connections` of a hundred: the others are refused at once."""
    limits = Limits(max_connections=100, when_full="refuse")
    with reactor_with(Echo, limits=limits) as address, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(MANY)]
        answers = []
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x")
                answers.append(client.recv(1))
        assert answers.count(b"x") == 100


@pytest.mark.parametrize("number", [1, MANY])
def test_client_that_prints_the_greeting(number):
    """The client that connects, receives up to 4,096 bytes and prints them."""
    printed = []

    class Client(Protocol):
        def data_received(self, data):
            printed.append(data.decode())

        def connection_lost(self, exc):
            if len(printed) == number:
                reactor.stop()

    with greeting() as address, Reactor() as reactor:
        for _ in range(number):
            reactor.connect(address, Client)
        reactor.run()
    assert printed == ["TEST"] * number


@pytest.mark.parametrize("number", [1, MANY])
def test_client_that_sends_a_message_and_prints_the_answer(number):
    """The client of `sendall` and `recv`."""
    printed = []

    async def client(stream):
        await stream.send(b"Hello, server!")
        printed.append((await stream.receive(1024)).decode())
        if len(printed) == number:
            reactor.stop()

    with sequential_echo() as address, Reactor() as reactor:
        for _ in range(number):
            reactor.connect(address, handler(client))
        reactor.run()
    assert printed == ["Hello, server!"] * number


def test_client_with_a_timeout():
    """The client that gives up after some seconds: here where the server accepts and says nothing."""
    errors = []

    async def client(stream):
        try:
            with stream.timeout(0.01):
                await stream.send(b"ping")
                await stream.receive(1024)
        except TimeoutError as exc:
            errors.append(exc)
        reactor.stop()

    with socket.create_server(("127.0.0.1", 0)) as silent, Reactor() as reactor:
        reactor.connect(silent.getsockname(), handler(client))
        reactor.run()
    assert len(errors) == 1


def test_client_gets_the_reason_of_a_failure_to_connect():
    """The client's errors, by the type that it catches."""
    errors = []
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with Reactor() as reactor:
        reactor.connect(address, Protocol, on_failure=lambda exc: (errors.append(exc), reactor.stop()))
        reactor.run()
    (problem,) = errors
    assert isinstance(problem, ConnectionError)
    assert isinstance(problem.attempts[0][1], ConnectionRefusedError)
