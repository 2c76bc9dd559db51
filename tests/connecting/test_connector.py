"""Connectors: attempts for each address, one error for all of them, and one timeout."""

import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from reactor import (
    Address,
    AddressError,
    ConnectError,
    ConnectorState,
    ConnectTimeout,
    Reactor,
    Reconnect,
    Timeouts,
    TLSTruncated,
)
from reactor.reactor import loop_of
from reactor.testing import ManualClock, Recorder
from tests.helpers import DEADLINE, Echo, refuse_changes, silent_address, spin


@pytest.fixture
def failures():
    return []


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def closed_port():
    """A loopback port without a listener, reserved so that no other process gets it."""
    with socket.socket() as held:
        held.bind(("", 0))
        yield held.getsockname()[1]


def resolving_to(*places):
    def getaddrinfo(host, port, **options):
        found = places or [("127.0.0.1", port)]
        return [
            (socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM, 6, "", place)
            for place in found
        ]

    return getaddrinfo


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "unix:{tmp_path}/s"])
def test_connects_and_talks(reactor, recorder, tmp_path, text, descriptors):
    listener = reactor.listen(text.format(tmp_path=tmp_path), Echo)
    connector = reactor.connect(listener.addresses[0], lambda: recorder)
    spin(reactor, connector.is_done)
    recorder.connection.write(b"hello")
    spin(reactor, lambda: recorder.received)
    assert recorder.received == b"hello"
    if "unix" not in text:
        peername = recorder.connection.get_extra_info("peername")
        assert Address.from_sockaddr(peername) == listener.addresses[0]
    recorder.connection.close()
    spin(reactor, lambda: recorder.lost)
    connector.cancel()
    listener.close()
    spin(reactor, lambda: not reactor.connections() and not reactor.stats().lingering)


def test_name_is_looked_up_on_another_thread(reactor, recorder, monkeypatch):
    threads = []
    lookup = resolving_to()

    def getaddrinfo(*args, **options):
        threads.append(threading.current_thread())
        return lookup(*args, **options)

    port = reactor.listen("127.0.0.1:0", Echo).addresses[0].port
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reactor.connect(f"example.invalid:{port}", lambda: recorder)
    spin(reactor, lambda: recorder.calls)
    assert threads[0] is not threading.current_thread()


def test_unknown_name_is_a_failed_attempt(reactor, failures, monkeypatch):
    def getaddrinfo(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reactor.connect("nowhere.invalid:1", Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    assert str(failures[0]) == "cannot connect to nowhere.invalid:1: Name or service not known"


def test_name_is_a_failed_attempt_if_no_thread_can_look_it_up(reactor, failures, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    connector = reactor.connect("localhost:1", Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    assert connector.is_done()
    assert str(failures[0]) == "cannot connect to localhost:1: can't start new thread"


def test_name_that_cannot_be_encoded_is_a_failed_attempt(reactor, failures):
    name = "x" * 64 + ".invalid"
    with pytest.raises(AddressError, match="is no host name: label"):
        reactor.connect(f"{name}:1", Recorder, on_failure=failures.append)
    reactor.connect(Address(host=name, port=1), Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    assert "label" in str(failures[0])


def test_name_without_addresses_is_a_failed_attempt(reactor, failures, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [])
    reactor.connect("nowhere.invalid:1", Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    assert "the name has no address" in str(failures[0])


def test_refused_connection_names_the_address_and_the_error(reactor, failures, closed_port):
    address = f"127.0.0.1:{closed_port}"
    reactor.connect(address, Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    (failure,) = failures
    assert isinstance(failure, ConnectError)
    assert isinstance(failure, ConnectionError)
    assert str(failure) == f"cannot connect to {address}: Connection refused"
    ((where, exc),) = failure.attempts
    assert where == address
    assert isinstance(exc, ConnectionRefusedError)


def test_next_address_is_tried_when_one_fails(reactor, recorder, monkeypatch, closed_port):
    port = reactor.listen("127.0.0.1:0", Echo).addresses[0].port
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        resolving_to(("127.0.0.2", closed_port), ("::1", port, 0, 0), ("127.0.0.1", port)),
    )
    reactor.connect(f"three.invalid:{port}", lambda: recorder)
    spin(reactor, lambda: recorder.calls)
    assert recorder.connection.get_extra_info("peername") == ("127.0.0.1", port)


def test_error_lists_every_attempt(reactor, failures, monkeypatch, closed_port):
    places = [("127.0.0.2", closed_port), ("127.0.0.3", closed_port)]
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to(*places))
    reactor.connect("two.invalid:1", Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    assert [where for where, _ in failures[0].attempts] == [f"{host}:{port}" for host, port in places]
    causes = "; ".join(f"{host}:{port}: Connection refused" for host, port in places)
    assert str(failures[0]) == f"cannot connect to two.invalid:1: {causes}"


def test_failure_without_on_failure_reaches_on_error(reactor, errors, closed_port):
    address = f"127.0.0.1:{closed_port}"
    reactor.connect(address, Recorder)
    spin(reactor, lambda: errors.seen)
    exc, callback, connection = errors.take()
    assert isinstance(exc, ConnectError)
    assert callback == f"<Connector {address}>"
    assert connection is None


def test_missing_unix_socket_is_a_failed_attempt(reactor, failures, tmp_path):
    reactor.connect(f"unix:{tmp_path}/none", Recorder, on_failure=failures.append)
    spin(reactor, lambda: failures)
    assert "No such file or directory" in str(failures[0])


@pytest.fixture
def silent():
    with silent_address() as address:
        yield address


def test_unix_socket_with_a_full_backlog_is_a_failed_attempt(reactor, failures, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(tmp_path / "s"))
        listening.listen(0)
        waiting.connect(str(tmp_path / "s"))
        reactor.connect(f"unix:{tmp_path}/s", Recorder, on_failure=failures.append)
        spin(reactor, lambda: failures)
    assert "Resource temporarily unavailable" in str(failures[0])


def test_attempt_without_an_answer_ends_at_the_timeout(make_selector, silent, failures, descriptors):
    clock = ManualClock()
    with Reactor(selector=make_selector(), clock=clock) as reactor:
        reactor.connect(silent, Recorder, timeouts=Timeouts(connect=3), on_failure=failures.append)
        reactor.run_once(0)
        clock.advance(2.9)
        reactor.run_once(0)
        assert failures == []
        clock.advance(0.2)
        reactor.run_once(0)
    (failure,) = failures
    assert isinstance(failure, ConnectTimeout)
    assert isinstance(failure, TimeoutError)
    assert str(failure) == (f"cannot connect to {silent}: no answer within 3 s; Connection timed out")


def test_timeout_covers_the_name_look_up(failures, monkeypatch):
    clock = ManualClock()
    answered = threading.Event()

    def getaddrinfo(*args, **options):
        answered.wait(DEADLINE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with Reactor(clock=clock) as reactor:
        reactor.connect("slow.invalid:1", Recorder, timeouts=Timeouts(connect=3), on_failure=failures.append)
        clock.advance(4)
        reactor.run_once(0)
        answered.set()
        assert isinstance(failures[0], ConnectTimeout)
        reactor.run_once(0.05)
    assert len(failures) == 1


def test_answer_of_a_look_up_after_the_reactor_was_closed_is_dropped(monkeypatch):
    begun, answered, done = threading.Event(), threading.Event(), threading.Event()

    def getaddrinfo(*args, **options):
        begun.set()
        answered.wait(DEADLINE)
        done.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with Reactor() as reactor:
        connector = reactor.connect("slow.invalid:1", Recorder)
        assert begun.wait(DEADLINE)
    answered.set()
    assert done.wait(DEADLINE)
    assert connector.is_done()


def test_hung_look_up_does_not_hold_up_the_end_of_the_program():
    program = """
        import socket, threading
        from reactor import Protocol, Reactor, Timeouts

        asked = threading.Event()

        def getaddrinfo(*args, **options):
            asked.set()
            threading.Event().wait()

        socket.getaddrinfo = getaddrinfo
        with Reactor() as reactor:
            connect = lambda name: reactor.connect(name, Protocol, on_failure=lambda exc: reactor.stop(),
                                                   timeouts=Timeouts(connect=0.01))
            for number in range(6):
                connect(f"slow{number}.invalid:1")
            asked.wait()
            reactor.run()
        print("ended")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_cancelled_connector_calls_nothing(reactor, silent, failures, descriptors):
    connector = reactor.connect(silent, Recorder, on_failure=failures.append)
    reactor.run_once(0)
    connector.cancel()
    connector.cancel()
    assert connector.is_done()
    assert failures == []
    assert reactor.next_timeout() is None


def test_connection_is_made_from_the_local_address(reactor, recorder):
    address = reactor.listen("127.0.0.1:0", Echo).addresses[0]
    reactor.connect(address, lambda: recorder, local_address="127.0.0.5:0")
    spin(reactor, lambda: recorder.calls)
    assert recorder.connection.get_extra_info("sockname")[0] == "127.0.0.5"


def test_factory_that_raises_is_reported_and_the_peer_sees_a_reset(reactor, errors, descriptors):
    problem = RuntimeError("mine")
    server = Echo()

    def factory():
        raise problem

    listener = reactor.listen("127.0.0.1:0", lambda: server)
    reactor.connect(listener.addresses[0], factory)
    spin(reactor, lambda: errors.seen)
    assert errors.take()[0] is problem
    spin(reactor, lambda: server.lost)
    assert isinstance(server.reason, ConnectionResetError)
    listener.close()


def test_selector_that_refuses_the_connection_is_a_failed_attempt(reactor, failures, monkeypatch, tmp_path):
    listener = reactor.listen(f"unix:{tmp_path}/s", Echo)  # connects at once, and is registered once
    reactor.connect(listener.addresses[0], Recorder, on_failure=failures.append)

    def refuse(*args):
        raise OSError(28, "No more watches")

    refuse_changes(monkeypatch, loop_of(reactor).registry.selector, "register", refuse)
    reactor.run_once(0)
    monkeypatch.undo()
    assert "No more watches" in str(failures[0])


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("secured", [False, True])
def test_factory_that_cancels_its_connector_gets_no_connection(
    reactor, certificates, failures, descriptors, secured, again
):
    made, server = [], Echo()

    def factory():
        connector.cancel()
        made.append(Recorder())
        return made[-1]

    listener = reactor.listen("127.0.0.1:0", lambda: server, tls=certificates.server() if secured else None)
    connector = reactor.connect(
        ("localhost", listener.addresses[0].port),
        factory,
        tls=certificates.client() if secured else None,
        reconnect=Reconnect(first=0.001) if again else None,
        on_failure=failures.append,
    )
    spin(reactor, lambda: made and server.calls)
    spin(reactor, lambda: not reactor.connections())
    assert isinstance(server.reason, TLSTruncated if secured else ConnectionResetError)
    assert made[0].calls == []
    assert len(made) == 1
    assert failures == []
    assert connector.state is ConnectorState.DONE
    assert reactor.next_timeout() is None
    listener.close()


@pytest.mark.parametrize("where", ["on_failure", "random"])
def test_cancel_in_on_failure_ends_the_connector(reactor, failures, closed_port, where):
    def cancel(*args):
        connector.cancel()
        failures.append(where)
        return 1.0

    connector = reactor.connect(
        f"127.0.0.1:{closed_port}",
        Recorder,
        on_failure=cancel if where == "on_failure" else failures.append,
        reconnect=Reconnect(first=0.001, random=cancel if where == "random" else lambda: 1.0),
    )
    spin(reactor, lambda: failures)
    assert failures == [where]
    assert connector.state is ConnectorState.DONE
    assert reactor.next_timeout() is None


def test_connection_that_cannot_be_created_is_reported_as_a_factory_that_raises(
    reactor, errors, certificates, descriptors
):
    class Factory:
        def __call__(self):
            raise AssertionError("it is not come to")

        def pending_handshake(self, *args):
            raise LookupError("none today")

    server = Echo()
    listener = reactor.listen("127.0.0.1:0", lambda: server)
    connector = reactor.connect(listener.addresses[0], Factory(), tls=certificates.client())
    spin(reactor, lambda: errors.seen)
    assert isinstance(errors.take()[0], LookupError)
    assert connector.state is ConnectorState.DONE
    assert reactor.next_timeout() is None
    spin(reactor, lambda: server.lost)
    listener.close()


def test_connection_is_none_until_the_handshake_is_complete(reactor, certificates):
    listener = reactor.listen("127.0.0.1:0", Recorder)  # it never begins TLS
    connector = reactor.connect(listener.addresses[0], Recorder, tls=certificates.client())
    spin(reactor, lambda: connector.state is ConnectorState.HANDSHAKING)
    assert connector.connection is None
    connector.cancel()
    assert connector.state is ConnectorState.DONE


@pytest.mark.parametrize("address", ["nonsense", "fd:3", ("127.0.0.1", -1), 7])
def test_invalid_address_is_refused(reactor, address):
    with pytest.raises(AddressError):
        reactor.connect(address, Recorder)


def test_local_address_of_another_family_is_a_failed_attempt(reactor):
    failures = []
    listener = reactor.listen("127.0.0.1:0", Recorder)
    connector = reactor.connect(
        listener.addresses[0], Recorder, local_address="[::1]:0", on_failure=failures.append
    )
    spin(reactor, lambda: failures)
    assert "local_address [::1]:0 is of another family" in str(failures[0])
    assert connector.is_done()


def test_local_address_that_is_a_descriptor_is_refused(reactor):
    with pytest.raises(AddressError, match="fd:3 can't be connected from"):
        reactor.connect("127.0.0.1:1", Recorder, local_address="fd:3")
