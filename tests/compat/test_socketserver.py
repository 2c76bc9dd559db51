"""`socketserver` on the reactor: the standard module's documented behaviour, and the differences."""

import contextlib
import errno
import os
import signal
import socket
import socketserver as standard
import struct
import sys
import threading

import pytest

from reactor.compat import socketserver
from tests.helpers import DEADLINE, serving


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Datagram(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read().upper())


def talk(address, data=b"Hello\n"):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(DEADLINE)
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_every_name_of_the_standard_module_exists():
    assert set(standard.__all__) <= set(socketserver.__all__)
    for name in standard.__all__:
        ours, theirs = getattr(socketserver, name), getattr(standard, name)
        missing = {each for each in dir(theirs) if not each.startswith("_")} - set(dir(ours))
        assert not missing, f"{name} lacks {missing}"
        assert ours is theirs or issubclass(ours, standard.BaseServer) or "MixIn" in name


STREAM_SERVERS = ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"]


@pytest.mark.parametrize("name", STREAM_SERVERS)
def test_documented_servers_run(name, descriptors):
    with serving(getattr(socketserver, name)(("127.0.0.1", 0), Echo)) as server:
        for _ in range(3):
            assert talk(server.server_address) == b"Hello\n"


@pytest.mark.parametrize("name", ["UnixStreamServer", "ThreadingUnixStreamServer", "ForkingUnixStreamServer"])
def test_unix_servers(name, tmp_path, descriptors):
    with serving(getattr(socketserver, name)(str(tmp_path / "s"), Echo)) as server:
        assert talk(server.server_address) == b"Hello\n"


@pytest.mark.parametrize("name", ["UDPServer", "ThreadingUDPServer", "ForkingUDPServer"])
def test_datagram_servers(name, descriptors):
    with serving(getattr(socketserver, name)(("127.0.0.1", 0), Datagram)) as server:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            for word in (b"one", b"two"):
                client.sendto(word, server.server_address)
                assert client.recv(100) == word.upper()


def test_several_threads_may_serve_one_server(descriptors):
    with serving(socketserver.TCPServer(("127.0.0.1", 0), Echo), threads=8) as server:
        assert [talk(server.server_address) for _ in range(40)] == [b"Hello\n"] * 40
        assert server.socket.gettimeout() == 0.0


def test_server_may_be_bound_and_activated_in_two_steps(descriptors):
    class Server(socketserver.TCPServer):
        allow_reuse_address = True
        request_queue_size = 7

    server = Server(("127.0.0.1", 0), Echo, bind_and_activate=False)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    server.server_bind()
    server.server_activate()
    with serving(server):
        assert talk(server.server_address) == b"Hello\n"


def test_socket_s_timeout_is_restored_after_serving(descriptors):
    server = socketserver.TCPServer(("127.0.0.1", 0), Echo)
    server.socket.settimeout(3.5)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert talk(server.server_address) == b"Hello\n"
    server.shutdown()
    thread.join(DEADLINE)
    assert server.socket.gettimeout() == 3.5
    server.server_close()


def test_overridden_methods_are_called(descriptors):
    calls = []

    class Server(socketserver.TCPServer):
        def get_request(self):
            calls.append("get")
            return super().get_request()

        def verify_request(self, request, client_address):
            calls.append("verify")
            return len(calls) > 4

        def process_request(self, request, client_address):
            calls.append("process")
            super().process_request(request, client_address)

        def finish_request(self, request, client_address):
            calls.append("finish")
            super().finish_request(request, client_address)

        def shutdown_request(self, request):
            calls.append("shutdown")
            super().shutdown_request(request)

        def close_request(self, request):
            calls.append("close")
            super().close_request(request)

    with serving(Server(("127.0.0.1", 0), Echo)) as server:
        with socket.create_connection(server.server_address, timeout=DEADLINE) as refused:
            assert refused.recv(1) == b""
        assert talk(server.server_address) == b"Hello\n"
    hooks = [call for call in calls if call != "get"]
    assert hooks == ["verify", "shutdown", "close", "verify", "process", "finish", "shutdown", "close"]


@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer"])
def test_handler_that_raises_calls_handle_error_and_the_server_continues(name, descriptors):
    handled = []

    class Broken(socketserver.BaseRequestHandler):
        def handle(self):
            raise LookupError("not found")

    class Server(getattr(socketserver, name)):
        def handle_error(self, request, client_address):
            handled.append(client_address)

    with serving(Server(("127.0.0.1", 0), Broken)) as server:
        for _ in range(3):
            assert talk(server.server_address, b"") == b""
    assert len(handled) == 3


def test_handle_request_returns_at_its_timeout(descriptors):
    timed_out = []

    class Server(socketserver.TCPServer):
        timeout = 0.01

        def handle_timeout(self):
            timed_out.append(True)

    with Server(("127.0.0.1", 0), Echo) as server:
        server.handle_request()
        assert timed_out == [True]
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"Hello\n")
            client.shutdown(socket.SHUT_WR)
            server.handle_request()
            assert client.recv(100) == b"Hello\n"


def test_overridden_service_actions_is_called(descriptors):
    called = threading.Semaphore(0)

    class Server(socketserver.TCPServer):
        def service_actions(self):
            called.release()

    server = Server(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.001,))
    thread.start()
    for _ in range(3):
        assert called.acquire(timeout=DEADLINE)
    server.shutdown()
    thread.join(DEADLINE)
    server.server_close()


def test_exception_of_service_actions_is_raised_by_serve_forever(descriptors):
    class Server(socketserver.TCPServer):
        def service_actions(self):
            raise LookupError("mine")

    with Server(("127.0.0.1", 0), Echo) as server, pytest.raises(LookupError, match="mine"):
        server.serve_forever()


def test_shutdown_before_serve_forever_ends_it_at_once(descriptors):
    with socketserver.TCPServer(("127.0.0.1", 0), Echo) as server:
        server.shutdown()
        server.serve_forever()
        with serving(server):
            assert talk(server.server_address) == b"Hello\n"


def test_handler_may_shut_its_own_server_down(descriptors):
    class Last(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"bye")
            self.server.shutdown()

    server = socketserver.TCPServer(("127.0.0.1", 0), Last)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert talk(server.server_address, b"") == b"bye"
    thread.join(DEADLINE)
    assert not thread.is_alive()
    server.server_close()


def test_server_out_of_descriptors_accepts_again_later(caplog, descriptors):
    class Server(socketserver.TCPServer):
        failures = 3
        tries = 0

        def get_request(self):
            self.tries += 1
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().get_request()

    with serving(Server(("127.0.0.1", 0), Echo)) as server:
        assert talk(server.server_address) == b"Hello\n"
        assert server.tries <= 6
    assert caplog.text.count("Too many open files; next attempt in 0.01 s") == 1


def threads_of(server):
    name = type(server).__name__ + "-"
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def slow(entered, gate):
    """Return a class of handlers that wait for `gate` after releasing `entered`."""

    class Slow(socketserver.BaseRequestHandler):
        def handle(self):
            entered.release()
            gate.wait(DEADLINE)
            self.request.sendall(b"done")

    return Slow


def test_requests_above_max_threads_wait(descriptors):
    entered, gate = threading.Semaphore(0), threading.Event()

    class Server(socketserver.ThreadingTCPServer):
        max_threads = 3
        max_waiting = 2

    with serving(Server(("127.0.0.1", 0), slow(entered, gate))) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(server.server_address)) for _ in range(10)]
        for _ in range(3):
            assert entered.acquire(timeout=DEADLINE)
        assert len(threads_of(server)) == 3
        gate.set()
        for client in clients:
            client.settimeout(DEADLINE)
            assert client.recv(10) == b"done"
        assert len(threads_of(server)) <= 3


class Raising(socketserver.BaseRequestHandler):
    """Raises the server's exception."""

    def handle(self):
        raise self.server.problem


@pytest.fixture
def hooked(monkeypatch):
    """Return the list of calls of `threading.excepthook`."""
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    return reported


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exception_in_a_thread_ends_only_its_request(kind, hooked, descriptors):
    class Server(socketserver.ThreadingTCPServer):
        max_threads = 2
        problem = kind("mine")

    with serving(Server(("127.0.0.1", 0), Raising)) as server:
        for _ in range(5):
            assert talk(server.server_address, b"") == b""
        server.RequestHandlerClass = Echo
        assert talk(server.server_address) == b"Hello\n"
    assert [(args.exc_type, args.exc_value) for args in hooked] == [(kind, Server.problem)] * 5
    assert all(args.thread.name.startswith("Server-") for args in hooked)


def test_system_exit_in_a_thread_prints_nothing(capfd, monkeypatch, descriptors):
    class Server(socketserver.ThreadingTCPServer):
        problem = SystemExit(3)

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    with serving(Server(("127.0.0.1", 0), Raising)) as server:
        assert talk(server.server_address, b"") == b""
    assert capfd.readouterr().err == ""


def test_handle_error_that_raises_ends_only_its_request(hooked, descriptors):
    class Server(socketserver.ThreadingTCPServer):
        max_threads = 2
        problem = LookupError("mine")

        def handle_error(self, request, client_address):
            raise ArithmeticError("in handle_error")

    with serving(Server(("127.0.0.1", 0), Raising)) as server:
        for _ in range(5):
            assert talk(server.server_address, b"") == b""
        server.RequestHandlerClass = Echo
        assert talk(server.server_address) == b"Hello\n"
    assert [str(args.exc_value) for args in hooked] == ["in handle_error"] * 5
    assert hooked[0].exc_value.__context__ is Server.problem


def test_handle_error_that_raises_on_the_server_s_thread_closes_the_request(descriptors):
    class Server(socketserver.TCPServer):
        problem = LookupError("mine")

        def handle_error(self, request, client_address):
            raise ArithmeticError("in handle_error")

    with Server(("127.0.0.1", 0), Raising) as server:
        with socket.create_connection(server.server_address, timeout=DEADLINE) as client:
            with pytest.raises(ArithmeticError):
                server.serve_forever()
            assert client.recv(1) == b""


@pytest.fixture
def no_threads(monkeypatch):
    """Return a set of name prefixes: threads with such names can't be started."""
    refused, start = set(), threading.Thread.start

    def start_or_not(thread):
        if thread.name.startswith(tuple(refused)):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    return refused


def test_request_is_passed_to_handle_error_if_no_thread_can_be_started(no_threads, descriptors):
    handled = []

    class Server(socketserver.ThreadingTCPServer):
        max_threads = 2
        max_waiting = 1

        def handle_error(self, request, client_address):
            handled.append(sys.exception())

    with serving(Server(("127.0.0.1", 0), Echo)) as server:
        no_threads.add("Server-")
        for _ in range(10):
            assert talk(server.server_address, b"") == b""
        assert [str(exc) for exc in handled] == ["can't start new thread"] * 10
        assert threads_of(server) == []
        no_threads.clear()
        assert talk(server.server_address) == b"Hello\n"
        no_threads.add("Server-")
    assert len(handled) == 10


def test_requests_wait_if_only_one_thread_can_be_started(no_threads, descriptors):
    entered, gate = threading.Semaphore(0), threading.Event()

    class Server(socketserver.ThreadingTCPServer):
        max_threads = 4

    with serving(Server(("127.0.0.1", 0), slow(entered, gate))) as server, contextlib.ExitStack() as stack:
        clients = []
        for _ in range(6):
            clients.append(stack.enter_context(socket.create_connection(server.server_address)))
            if not no_threads:
                assert entered.acquire(timeout=DEADLINE)
                no_threads.add("Server-")
        gate.set()
        for client in clients:
            client.settimeout(DEADLINE)
            assert client.recv(10) == b"done"
        assert len(threads_of(server)) == 1


def test_threads_attribute_has_a_length(descriptors):
    class Server(socketserver.ThreadingTCPServer):
        max_threads = 3

    with Server(("127.0.0.1", 0), Echo) as server:
        assert len(server._threads) == 0
        for _ in range(10):
            with socket.create_connection(server.server_address):
                server.handle_request()
        assert 0 < len(server._threads) <= 3
        assert all(thread.is_alive() for thread in server._threads)
    assert len(server._threads) == 0


def silent(stack, server, count):
    """Return clients that send nothing."""
    return [stack.enter_context(socket.create_connection(server.server_address)) for _ in range(count)]


def test_one_warning_is_logged_each_time_all_threads_are_busy(caplog, descriptors):
    taken, entered, left = threading.Semaphore(0), threading.Semaphore(0), threading.Semaphore(0)

    class Silent(socketserver.BaseRequestHandler):
        def handle(self):
            entered.release()
            self.request.recv(1)

    class Server(socketserver.ThreadingTCPServer):
        max_threads = 2

        def process_request(self, request, client_address):
            super().process_request(request, client_address)
            taken.release()

        def _done(self):
            super()._done()
            left.release()

    with serving(Server(("127.0.0.1", 0), Silent)) as server:
        for _ in range(2):
            with contextlib.ExitStack() as stack:
                clients = silent(stack, server, 2)
                assert all(entered.acquire(timeout=DEADLINE) for _ in range(2))
                clients += silent(stack, server, 3)
                assert all(taken.acquire(timeout=DEADLINE) for _ in range(5))
                for client in clients[:2]:  # two of the waiting ones get threads
                    client.sendall(b".")
                    assert entered.acquire(timeout=DEADLINE)
                clients += silent(stack, server, 3)
                assert all(taken.acquire(timeout=DEADLINE) for _ in range(3))
            for _ in range(8):
                assert left.acquire(timeout=DEADLINE)
            for _ in range(4):
                assert entered.acquire(timeout=DEADLINE)
    message = "Server: all 2 threads are busy, requests wait: see max_threads and idle_timeout"
    assert [record.getMessage() for record in caplog.records] == [message] * 2


def test_idle_timeout_frees_a_thread_of_a_silent_peer(descriptors):
    handled = []

    class Server(socketserver.ThreadingTCPServer):
        max_threads = 1
        idle_timeout = 0.05

        def handle_error(self, request, client_address):
            handled.append(sys.exception())

    with serving(Server(("127.0.0.1", 0), Echo)) as server, contextlib.ExitStack() as stack:
        for client in silent(stack, server, 3):
            client.settimeout(DEADLINE)
            assert client.recv(1) == b""
        assert talk(server.server_address) == b"Hello\n"
    assert [type(exc) for exc in handled] == [TimeoutError] * 3


def test_handler_s_own_timeout_replaces_idle_timeout(descriptors):
    timeouts = []

    class Own(socketserver.StreamRequestHandler):
        timeout = 7

        def handle(self):
            timeouts.append(self.request.gettimeout())

    class Server(socketserver.ThreadingTCPServer):
        idle_timeout = 5

    with serving(Server(("127.0.0.1", 0), Own)) as server:
        assert talk(server.server_address, b"") == b""
        Own.timeout = None
        assert talk(server.server_address, b"") == b""
    assert timeouts == [7, 5]


def test_idle_timeout_does_not_apply_to_datagrams(descriptors):
    class Server(socketserver.ThreadingUDPServer):
        idle_timeout = 0.05

    with serving(Server(("127.0.0.1", 0), Datagram)) as server:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.sendto(b"one", server.server_address)
            assert client.recv(100) == b"ONE"
            assert server.socket.gettimeout() is None


@pytest.mark.parametrize("problem", [AttributeError, OSError])
def test_exits_of_children_are_noticed_without_pidfd(monkeypatch, problem, descriptors):
    def missing(pid):
        raise problem

    monkeypatch.setattr(os, "pidfd_open", missing)

    class Server(socketserver.ForkingTCPServer):
        max_children = 1

    with serving(Server(("127.0.0.1", 0), Echo)) as server:
        for _ in range(3):
            assert talk(server.server_address) == b"Hello\n"


def test_requests_above_max_children_wait_and_children_are_reaped(descriptors):
    class Slow(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(struct.pack("i", os.getpid()))
            self.request.recv(1)

    class Server(socketserver.ForkingTCPServer):
        max_children = 2

        def process_request(self, request, client_address):
            super().process_request(request, client_address)
            forked.release()  # a child may write before its parent continues

    forked = threading.Semaphore(0)

    def pid_of(client):
        client.settimeout(DEADLINE)
        return struct.unpack("i", client.recv(4))[0]

    with serving(Server(("127.0.0.1", 0), Slow)) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(server.server_address)) for _ in range(4)]
        pids = {pid_of(client) for client in clients[:2]}
        assert all(forked.acquire(timeout=DEADLINE) for _ in range(2))
        assert server.active_children == pids
        clients[2].settimeout(0.05)
        with pytest.raises(TimeoutError):
            clients[2].recv(1)
        os.kill(min(pids), signal.SIGKILL)
        pids.add(pid_of(clients[2]))
        clients[0].sendall(b".")
        clients[1].sendall(b".")
        pids.add(pid_of(clients[3]))
        assert len(pids) == 4
        assert os.getpid() not in pids
        clients[2].sendall(b".")
        clients[3].sendall(b".")
    assert not server.active_children
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)
