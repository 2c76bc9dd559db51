"""Listeners: accepting, pausing, limits, and errors of accept."""

import errno
import os
import socket
import subprocess
import sys
import textwrap
from itertools import pairwise

import pytest

from reactor import AddressError, ConnectionAborted, Limits, ListenError, Reactor, UsageError
from reactor.connection.closing import lingering_of
from reactor.reactor import loop_of
from reactor.testing import ManualClock, Recorder, ScriptedSocket
from tests.helpers import DEADLINE, Echo, Factory, connect, refuse_changes, spin


@pytest.fixture
def factory():
    return Factory(Echo)


def closed(sock):
    return sock.recv(1) == b""


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "unix:{tmp_path}/s", "localhost:0"])
def test_listener_serves_every_kind_of_address(reactor, factory, tmp_path, text, descriptors):
    listener = reactor.listen(text.format(tmp_path=tmp_path), factory)
    for address in listener.addresses:
        with connect(reactor, address) as client:
            client.sendall(b"hello")
            spin(reactor, lambda: factory.made and factory.made[-1].received)
            assert client.recv(10) == b"hello"
    listener.close()
    for connection in reactor.connections():
        connection.abort()
    reactor.run_once(0)


def test_address_may_be_a_pair_of_host_and_port(reactor, factory):
    assert reactor.listen(("127.0.0.1", 0), factory).addresses[0].port > 0


def test_listening_socket_of_the_caller_is_adopted(reactor, factory, descriptors):
    listener = reactor.listen(socket.create_server(("127.0.0.1", 0)), factory)
    with connect(reactor, listener.addresses[0]) as client:
        client.sendall(b"hello")
        spin(reactor, lambda: factory.made and factory.made[-1].received)
    spin(reactor, lambda: factory.made[-1].lost)
    listener.close()


def test_socket_that_does_not_listen_is_refused_and_stays_open(reactor, factory):
    with pytest.raises(AddressError, match="5 is no address"):
        reactor.listen(5, factory)
    with socket.socket() as sock:
        with pytest.raises(ListenError, match=r"cannot listen on <socket.*it is no listening stream socket"):
            reactor.listen(sock, factory)
        assert sock.fileno() >= 0


def test_accepted_sockets_have_tcp_nodelay(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory)
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: factory.made)
        sock = factory.made[0].connection.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.getblocking()


def test_tcp_nodelay_is_set_where_it_is_not_inherited(reactor, factory, monkeypatch):
    monkeypatch.setattr("reactor.listening.listener.sys.platform", "other")
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)]
    listener = reactor.listen("127.0.0.1:0", factory, options=options)
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: factory.made)
        sock = factory.made[0].connection.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_peername_is_the_client_s_address(reactor, factory):
    for text in ("127.0.0.1:0", "[::1]:0"):
        listener = reactor.listen(text, factory)
        with connect(reactor, listener.addresses[0]) as client:
            spin(reactor, lambda: factory.made)
            assert factory.made.pop().connection.get_extra_info("peername") == client.getsockname()


def test_one_tick_accepts_one_batch(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory, limits=Limits(accept_batch=2))
    clients = [connect(reactor, listener.addresses[0]) for _ in range(5)]
    sizes = []
    for _ in range(3):
        reactor.run_once(1)
        sizes.append(len(factory.made))
    assert sizes == [2, 4, 5]
    for client in clients:
        client.close()


def test_budget_ends_a_batch(clock):
    def make():
        made.append(Recorder())
        clock.advance(0.001)
        return made[-1]

    made, sizes = [], []
    with Reactor(clock=clock) as reactor:
        listener = reactor.listen("127.0.0.1:0", make)
        clients = [connect(reactor, listener.addresses[0]) for _ in range(3)]
        for _ in range(3):
            reactor.run_once(1, budget=0.001)
            sizes.append(len(made))
    assert sizes == [1, 2, 3]
    for client in clients:
        client.close()


def test_full_listener_accepts_again_when_a_connection_ends(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory, limits=Limits(max_connections=2))
    clients = [connect(reactor, listener.addresses[0]) for _ in range(4)]
    for _ in range(5):
        reactor.run_once(0.01)
    assert (len(factory.made), listener.connections) == (2, 2)
    for left in (0, 1):
        clients[left].close()
        spin(reactor, lambda: len(factory.made) == left + 3)  # noqa: B023
    for client in clients:
        client.close()
    spin(reactor, lambda: listener.connections == 0)


def test_paused_listener_leaves_connections_in_the_backlog(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory)
    listener.pause()
    listener.pause()
    with connect(reactor, listener.addresses[0]):
        reactor.run_once(0.01)
        assert factory.made == []
        listener.resume()
        spin(reactor, lambda: factory.made)


def test_pause_of_a_full_listener_outlasts_the_end_of_a_connection(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory, limits=Limits(max_connections=1))
    with connect(reactor, listener.addresses[0]) as first, connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: factory.made)
        listener.pause()
        first.close()
        spin(reactor, lambda: listener.connections == 0)
        reactor.run_once(0.01)
        assert len(factory.made) == 1
        listener.resume()
        spin(reactor, lambda: len(factory.made) == 2)


def test_pause_in_connection_made_ends_the_batch(reactor):
    class Pauser(Recorder):
        def connection_made(self, connection):
            super().connection_made(connection)
            listener.pause()

    factory = Factory(Pauser)
    listener = reactor.listen("127.0.0.1:0", factory)
    clients = [connect(reactor, listener.addresses[0]) for _ in range(3)]
    for _ in range(3):
        reactor.run_once(0.01)
    assert len(factory.made) == 1
    for client in clients:
        client.close()


def test_closed_listener_keeps_its_connections_open(reactor, factory, tmp_path):
    listener = reactor.listen(f"unix:{tmp_path}/s", factory)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: factory.made)
        listener.close()
        listener.close()
        assert listener.is_closed()
        assert repr(listener) == f"<Listener unix:{tmp_path}/s>"
        assert not os.path.exists(tmp_path / "s")
        client.sendall(b"x")
        spin(reactor, lambda: factory.made[0].received)
        assert client.recv(1) == b"x"


def test_methods_of_a_closed_listener_raise(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory)
    listener.close()
    for use in (listener.pause, listener.resume):
        with pytest.raises(UsageError, match="the listener is closed: listen again"):
            use()


def test_factory_that_raises_is_reported_once_and_resets_the_connection(reactor, errors):
    problem = RuntimeError("mine")

    def factory():
        raise problem

    listener = reactor.listen("127.0.0.1:0", factory)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: errors.seen)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert errors.take() == (problem, f"the protocol factory of {listener}", None)
    assert listener.connections == 0


def test_connection_that_the_selector_refuses_is_reset(reactor, errors, factory, monkeypatch, caplog):
    problem = OSError(errno.ENOSPC, "no more watches")
    listener = reactor.listen("127.0.0.1:0", factory, limits=Limits(max_connections=1))

    def refuse(*args):
        raise problem

    refuse_changes(monkeypatch, loop_of(reactor).registry.selector, "register", refuse)
    with connect(reactor, listener.addresses[0]) as client:
        spin(reactor, lambda: errors.seen)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert errors.take()[0] is problem
    assert listener.connections == 0
    # After the pause the selector refused the listening socket itself, and the listener tries again.
    assert "no more watches; trying again" in caplog.text
    monkeypatch.undo()
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: listener.connections == 1)


def scripted(reactor, factory, *results, **options):
    """Return a listener and its listening socket, whose `accept` has these results first."""
    sock = ScriptedSocket(socket.create_server(("127.0.0.1", 0)), accept=results)
    return reactor.listen(sock, factory, **options), sock


def accepts(sock):
    """Return how often `accept` was called."""
    return sock.calls.count("accept")


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH])
def test_connection_that_failed_before_accept_is_ignored(reactor, factory, number):
    listener, sock = scripted(reactor, factory, OSError(number, "gone"))
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: factory.made)
        assert accepts(sock) >= 2


def test_spurious_readiness_of_the_listening_socket_is_ignored(reactor, factory):
    listener, _ = scripted(reactor, factory, BlockingIOError(), InterruptedError())
    with connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: factory.made)


def test_out_of_descriptors_backs_off_logs_and_recovers(factory, caplog):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        problem = OSError(errno.EMFILE, "Too many open files")
        listener, sock = scripted(reactor, factory, *[problem] * 20)
        with connect(reactor, listener.addresses[0]):
            waits, tries = [], []
            while not factory.made:
                before = accepts(sock)
                reactor.run_once(0)
                reactor.run_once(0)
                assert accepts(sock) - before <= 1 + 2 * len(factory.made)  # no busy loop
                if accepts(sock) > before:
                    tries.append(sum(waits))
                if not factory.made:
                    waits.append(reactor.next_timeout())
                    clock.advance(waits[-1])
    assert tries[:8] == pytest.approx([0, 0.01, 0.03, 0.07, 0.15, 0.31, 0.63, 1.27])
    assert max(after - before for before, after in pairwise(tries)) == pytest.approx(1.0)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].endswith("out of resources: [Errno 24] Too many open files; trying again in 0.01 s")
    assert len(lines) <= sum(waits) + 1


def refusing(**limits):
    return Limits(when_full="refuse", **limits)


def test_connections_above_max_connections_are_refused(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory, limits=refusing(max_connections=2))
    clients = [connect(reactor, listener.addresses[0]) for _ in range(4)]
    spin(reactor, lambda: reactor.stats().refused == {"max_connections": 2})
    assert [closed(client) for client in clients[2:]] == [True, True]
    clients[0].close()
    spin(reactor, lambda: listener.connections == 1)
    with connect(reactor, listener.addresses[0]) as late:
        late.sendall(b"x")
        spin(reactor, lambda: factory.made[-1].received)
        assert late.recv(1) == b"x"
    for client in clients:
        client.close()


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", ":0"])
def test_connections_above_max_per_ip_are_refused(reactor, factory, text):
    listener = reactor.listen(text, factory, limits=Limits(max_per_ip=2))
    port = listener.addresses[0].port
    host = "::1" if text.startswith("[") else "127.0.0.1"
    clients = [socket.create_connection((host, port), timeout=DEADLINE) for _ in range(3)]
    spin(reactor, lambda: reactor.stats().refused == {"max_per_ip": 1})
    assert closed(clients[2])
    if host == "127.0.0.1":
        clients.append(socket.create_connection((host, port), DEADLINE, source_address=("127.0.0.2", 0)))
        spin(reactor, lambda: len(factory.made) == 3)
    clients[0].close()
    spin(reactor, lambda: any(recorder.lost for recorder in factory.made))
    clients += [socket.create_connection((host, port), timeout=DEADLINE) for _ in range(2)]
    spin(reactor, lambda: reactor.stats().refused == {"max_per_ip": 2})
    assert len(factory.made) == 3 + (host == "127.0.0.1")
    assert reactor.stats().accepted == len(factory.made)
    for client in clients:
        client.close()
    spin(reactor, lambda: listener.connections == 0)


def test_max_per_ip_does_not_count_unix_clients(reactor, factory, tmp_path):
    listener = reactor.listen(f"unix:{tmp_path}/s", factory, limits=Limits(max_per_ip=1))
    clients = [connect(reactor, listener.addresses[0]) for _ in range(3)]
    spin(reactor, lambda: len(factory.made) == 3)
    for client in clients:
        client.close()


def test_connections_are_refused_with_the_reserve_descriptor(factory, descriptors):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        listener, sock = scripted(reactor, factory, OSError(errno.EMFILE, "full"), limits=refusing())
        clients = [connect(reactor, listener.addresses[0]) for _ in range(3)]
        reactor.run_once(0)
        assert reactor.stats().refused == {"descriptors": 3}
        assert [closed(client) for client in clients] == [True] * 3
        assert accepts(sock) == 5  # the failure, three connections, an empty backlog
        clock.advance(0.01)
        clients.append(connect(reactor, listener.addresses[0]))
        reactor.run_once(0)
        reactor.run_once(0)
        assert len(factory.made) == 1
        for client in clients:
            client.close()


def test_reserve_descriptor_is_opened_again_later(factory, monkeypatch, descriptors):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        problem = OSError(errno.EMFILE, "full")
        listener, sock = scripted(reactor, factory, problem, problem, problem, limits=refusing())

        def none_left(*args):
            raise problem

        monkeypatch.setattr("reactor.loop.system.os.open", none_left)
        with connect(reactor, listener.addresses[0]) as client:
            reactor.run_once(0)
            clock.advance(1)
            reactor.run_once(0)
            monkeypatch.undo()
            clock.advance(1)
            reactor.run_once(0)
            sock.add(accept=[problem])
            clock.advance(1)
            spin(reactor, lambda: reactor.stats().refused or clock.advance(0.1))
            assert closed(client)


def test_closed_listener_opens_no_reserve_descriptor(factory, monkeypatch, descriptors):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        problem = OSError(errno.EMFILE, "full")
        listener, _ = scripted(reactor, factory, problem, limits=refusing())

        def none_left(*args):
            raise problem

        with connect(reactor, listener.addresses[0]):
            with monkeypatch.context() as patched:
                patched.setattr("reactor.loop.system.System.reserve", none_left)
                reactor.run_once(0)
            listener.close()
            open_before = len(os.listdir("/proc/self/fd"))
            clock.advance(2)
            reactor.run_once(0)
            assert len(os.listdir("/proc/self/fd")) == open_before


def test_descriptor_of_a_closed_listener_can_be_listened_on_again(reactor, factory):
    before = list(loop_of(reactor).registry.owned())
    for _ in range(3):
        listener = reactor.listen("127.0.0.1:0", factory)
        with connect(reactor, listener.addresses[0]) as client:
            client.sendall(b"x")
            spin(reactor, lambda: factory.made and factory.made[-1].received)
        spin(reactor, lambda: factory.made[-1].lost)
        listener.close()
    assert list(loop_of(reactor).registry.owned()) == before


def test_on_accept_error_may_free_a_descriptor(reactor, factory, caplog):
    def evict(exc):
        seen.append(exc.errno)
        factory.made[0].connection.abort()
        return True

    seen = []
    listener, sock = scripted(reactor, factory, on_accept_error=evict)
    with connect(reactor, listener.addresses[0]), connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: len(factory.made) == 2)
        sock.add(accept=[OSError(errno.EMFILE, "full")])
        with connect(reactor, listener.addresses[0]):
            spin(reactor, lambda: len(factory.made) == 3)
    assert seen == [errno.EMFILE]
    assert isinstance(factory.made[0].reason, ConnectionAborted)
    assert caplog.text == ""


@pytest.mark.parametrize("answer", [False, ZeroDivisionError()])
def test_listener_backs_off_if_on_accept_error_freed_nothing(factory, errors, answer, caplog):
    def handler(exc):
        if answer:
            raise answer
        return False

    with Reactor(clock=ManualClock(), on_error=errors) as reactor:
        listener, _ = scripted(reactor, factory, OSError(errno.EMFILE, "full"), on_accept_error=handler)
        with connect(reactor, listener.addresses[0]):
            reactor.run_once(0)
            assert reactor.next_timeout() == pytest.approx(0.01)
        if answer:
            assert errors.take()[:2] == (answer, f"on_accept_error of {listener}")
    assert "trying again in 0.01 s" in caplog.text


def test_drain_waits_for_the_backlog_of_a_listener_that_backs_off(factory, caplog):
    clock, reports = ManualClock(), []
    with Reactor(clock=clock) as reactor:
        listener, _ = scripted(reactor, factory, OSError(errno.EMFILE, "full"))
        with connect(reactor, listener.addresses[0]) as client:
            client.sendall(b"x")
            reactor.run_once(0)
            listener.drain(30, reports.append)
            for _ in range(3):
                reactor.run_once(0)
            assert reports == []
            clock.advance(1)
            spin(reactor, lambda: factory.made and factory.made[0].received)
            assert client.recv(1) == b"x"
        spin(reactor, lambda: reports or clock.advance(0.01))
    assert (reports[0].failed, reports[0].aborted) == (0, 0)
    assert "trying again" in caplog.text


def test_freed_descriptor_ends_the_back_off(factory, caplog):
    with Reactor(clock=ManualClock()) as reactor:
        listener, sock = scripted(reactor, factory)
        with connect(reactor, listener.addresses[0]) as first:
            spin(reactor, lambda: factory.made)
            sock.add(accept=[OSError(errno.EMFILE, "full")])
            with connect(reactor, listener.addresses[0]):
                reactor.run_once(0)
                first.close()
                spin(reactor, lambda: len(factory.made) == 2)  # the clock does not advance
    assert "trying again" in caplog.text


def test_lingering_sockets_are_closed_to_free_descriptors(reactor, factory, caplog):
    listener, sock = scripted(reactor, factory)
    with connect(reactor, listener.addresses[0]) as first, connect(reactor, listener.addresses[0]):
        spin(reactor, lambda: len(factory.made) == 2)
        factory.made[0].connection.close()
        spin(reactor, lingering_of(loop_of(reactor).registry)[0].is_delivered)
        sock.add(accept=[OSError(errno.EMFILE, "full")])
        with connect(reactor, listener.addresses[0]):
            spin(reactor, lambda: len(factory.made) == 3)
        assert closed(first)
        assert reactor.stats().lingering == 0


def test_unknown_accept_error_backs_off_too(factory, caplog):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        listener, _ = scripted(reactor, factory, OSError(errno.EIO, "odd"))
        with connect(reactor, listener.addresses[0]):
            reactor.run_once(0)
            assert reactor.next_timeout() == pytest.approx(0.01)
    assert "cannot accept" in caplog.text


def test_closed_listener_ends_its_back_off(factory, caplog):
    clock = ManualClock()
    with Reactor(clock=clock) as reactor:
        listener, _ = scripted(reactor, factory, OSError(errno.EMFILE, "full"))
        with connect(reactor, listener.addresses[0]):
            reactor.run_once(0)
            listener.close()
            clock.advance(1)
            reactor.run_once(0)
    assert factory.made == []


def test_listener_recovers_from_a_real_lack_of_descriptors():
    program = textwrap.dedent("""
        import resource, socket, logging
        from reactor import Protocol, Reactor

        logging.basicConfig()
        made = []

        class Keep(Protocol):
            def connection_made(self, connection):
                made.append(connection)

        with Reactor() as reactor:
            address = reactor.listen("127.0.0.1:0", Keep).addresses[0]
            clients = [socket.create_connection((address.host, address.port)) for _ in range(20)]
            used = max(client.fileno() for client in clients)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, used + 6))
            ticks = 0
            while len(made) < 5:
                reactor.run_once(1)
            reactor.call_later(0.3, reactor.stop)
            reactor.run()
            assert len(made) == 5, len(made)
            for client in clients[:5]:
                client.close()
            while len(made) < 20:
                reactor.run_once(1)
                for connection in made:
                    connection.close()
        print("survived")
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "survived\n", done.stderr
    assert 1 <= done.stderr.count("Too many open files") <= 3


def test_listening_socket_that_the_selector_refuses_is_closed(reactor, factory, monkeypatch, descriptors):
    def refuse(*args):
        raise OSError(errno.ENOMEM, "no memory")

    refuse_changes(monkeypatch, loop_of(reactor).registry.selector, "register", refuse)
    with pytest.raises(OSError, match="no memory"):
        reactor.listen("127.0.0.1:0", factory)
    assert reactor.listeners() == []


def test_listen_without_a_reserve_descriptor_closes_the_socket(reactor, factory, monkeypatch, descriptors):
    def none_left(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("reactor.loop.system.os.open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        reactor.listen("127.0.0.1:0", factory, limits=refusing())
    assert reactor.listeners() == []


def test_repr_names_the_addresses(reactor, factory):
    listener = reactor.listen("127.0.0.1:0", factory)
    assert repr(listener) == f"<Listener {listener.addresses[0]}>"
