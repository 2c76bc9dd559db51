"""Reconnecting: the delays, the number of attempts, and the end."""

import doctest

import pytest

import reactor.connecting.connector as connector_module
from reactor import ConnectorState, Protocol, Reconnect
from reactor.testing import Recorder
from tests.helpers import spin

FULL = Reconnect(first=1.0, max_delay=8.0, random=lambda: 1.0)  # no jitter: the whole delay


@pytest.fixture
def path(tmp_path):
    return f"unix:{tmp_path}/server"


@pytest.fixture
def made():
    """The protocols that `client` made, in order."""
    return []


@pytest.fixture
def client(made):
    """A factory that adds its protocols to `made`."""

    def factory():
        made.append(Recorder())
        return made[-1]

    return factory


def tick(reactor):
    for _ in range(4):
        reactor.run_once(0)


def rounds_after(reactor, clock, failures, seconds):
    """Advance the clock by `seconds`, and return how many rounds have failed."""
    clock.advance(seconds)
    tick(reactor)
    return len(failures)


def test_failed_rounds_are_reported_and_their_delays_grow(timed, clock, path):
    failures = []
    timed.connect(path, Protocol, on_failure=failures.append, reconnect=FULL)
    tick(timed)
    assert len(failures) == 1
    for number, delay in enumerate([1, 2, 4, 8, 8, 8], start=1):
        assert rounds_after(timed, clock, failures, delay - 0.001) == number
        assert rounds_after(timed, clock, failures, 0.001) == number + 1


def test_connects_when_the_server_is_back(timed, clock, path, made, client):
    connector = timed.connect(path, client, on_failure=lambda exc: None, reconnect=FULL)
    tick(timed)
    timed.listen(path, Protocol)
    clock.advance(1)
    spin(timed, lambda: made)
    assert made[0].names == ["connection_made"]
    assert not connector.is_done()


def test_connects_again_when_the_connection_has_ended(timed, clock, path, made, client):
    timed.listen(path, Protocol)
    timed.connect(path, client, reconnect=FULL)
    spin(timed, lambda: made)
    clock.advance(100)
    made[0].connection.abort()
    tick(timed)
    assert len(made) == 1
    clock.advance(1)
    spin(timed, lambda: len(made) == 2)
    assert made[1].names == ["connection_made"]


class Closes(Protocol):
    def connection_made(self, connection):
        connection.close()


def test_delay_grows_for_a_server_that_closes_at_once(timed, clock, path, made, client):
    timed.listen(path, Closes)
    timed.connect(path, client, reconnect=FULL)
    spin(timed, lambda: made and made[0].lost)
    tick(timed)
    for number, delay in enumerate([1, 2, 4, 8, 8], start=1):
        clock.advance(delay - 0.001)
        tick(timed)
        assert len(made) == number
        clock.advance(0.001)
        spin(timed, lambda number=number: len(made) == number + 1 and made[-1].lost)
        tick(timed)


def test_delay_starts_again_after_a_connection_that_stayed_open(timed, clock, path, made, client):
    server = timed.listen(path, Closes)
    timed.connect(path, client, reconnect=FULL)
    for delay in (0, 1, 2):
        clock.advance(delay)
        spin(timed, lambda: made and made[-1].lost)
        tick(timed)
        made.clear()
    server.close()
    timed.listen(path, Protocol)
    clock.advance(4)
    spin(timed, lambda: made)
    clock.advance(8)  # as long as the next delay
    made[0].connection.abort()
    tick(timed)
    clock.advance(1)
    spin(timed, lambda: len(made) == 2)


def test_attempts_limit_consecutive_failed_rounds(timed, clock, path):
    failures = []
    bounded = Reconnect(first=1, max_delay=1, attempts=3, random=lambda: 1.0)
    connector = timed.connect(path, Protocol, on_failure=failures.append, reconnect=bounded)
    tick(timed)
    for number in (2, 3):
        assert not connector.is_done()
        assert rounds_after(timed, clock, failures, 1) == number
    assert connector.is_done()
    assert rounds_after(timed, clock, failures, 100) == 3
    assert timed.next_timeout() is None


def test_without_on_failure_only_the_last_failure_is_reported(timed, clock, path, errors, caplog):
    bounded = Reconnect(first=1, max_delay=1, attempts=2, random=lambda: 1.0)
    timed.connect(path, Protocol, reconnect=bounded)
    tick(timed)
    assert "No such file or directory; it is tried again" in caplog.text
    clock.advance(1)
    tick(timed)
    assert "cannot connect to unix:" in str(errors.take()[0])


@pytest.mark.parametrize("phase", ["first round", "waiting", "connected"])
@pytest.mark.parametrize("how", ["cancel", "drain", "close"])
def test_cancel_close_and_drain_end_the_connector_in_every_phase(
    timed, clock, path, made, client, phase, how
):
    failures = []
    if phase == "connected":
        timed.listen(path, Protocol)
    connector = timed.connect(path, client, on_failure=failures.append, reconnect=FULL)
    if phase == "waiting":
        tick(timed)
    elif phase == "connected":
        spin(timed, lambda: made)
    if how == "cancel":
        connector.cancel()
    elif how == "drain":
        timed.drain(1, lambda report: None)
    else:
        timed.close()
    assert connector.is_done() or how == "drain"
    if how != "close":
        tick(timed)
        clock.advance(10)
        tick(timed)
        clock.advance(10)
        tick(timed)
        assert len(made) == (phase == "connected")
        # A drain begins with the next tick.
        assert len(failures) == (phase == "waiting" or (phase, how) == ("first round", "drain"))
        assert connector.is_done()
    if how == "cancel" and made:
        assert not made[0].lost, "a connection that was made stays open"


@pytest.mark.parametrize("secured", [False, True])
def test_factory_that_raises_is_a_failed_round(timed, clock, errors, certificates, secured):
    """It is a failed round like any other: the delay follows, and `attempts` counts it."""
    failures = []

    def factory():
        raise LookupError("no protocol today")

    server = timed.listen("127.0.0.1:0", Recorder, tls=certificates.server() if secured else None)
    connector = timed.connect(
        ("localhost", server.addresses[0].port),
        factory,
        on_failure=failures.append,
        reconnect=Reconnect(first=1.0, max_delay=8.0, attempts=3, random=lambda: 1.0),
        tls=certificates.client() if secured else None,
    )
    for number, delay in enumerate([1.0, 2.0, None]):
        spin(timed, lambda number=number: len(failures) > number)
        assert "its factory raised LookupError('no protocol today')" in str(failures[-1])
        assert isinstance(failures[-1].__cause__, LookupError)
        assert connector.connection is None
        assert errors.take()[1].startswith("the protocol factory of <Connector")
        if delay is not None:
            assert connector.state is ConnectorState.WAITING
            assert connector.next_attempt == clock.now + delay
            clock.advance(delay)
    tick(timed)
    assert connector.is_done()
    assert connector.state is ConnectorState.DONE
    assert connector.next_attempt is None
    assert len(failures) == 3


@pytest.mark.parametrize("secured", [False, True])
def test_state_follows_the_phases(timed, clock, certificates, made, client, secured):
    server_context = certificates.server() if secured else None
    server = timed.listen("127.0.0.1:0", Recorder, tls=server_context)
    connector = timed.connect(
        ("127.0.0.1", server.addresses[0].port),
        client,
        reconnect=FULL,
        tls=certificates.client() if secured else None,
    )
    seen = [connector.state]

    def connected():
        if connector.state is not seen[-1]:
            seen.append(connector.state)
        return made

    assert connector.connection is None
    spin(timed, connected, wait=0)
    connected()
    handshaking = [ConnectorState.HANDSHAKING] if secured else []
    assert seen == [ConnectorState.CONNECTING, *handshaking, ConnectorState.CONNECTED]
    assert connector.connection is made[0].connection
    made[0].connection.abort()
    assert connector.connection is None
    tick(timed)
    assert connector.state is ConnectorState.WAITING
    assert connector.next_attempt == clock.now + 1.0
    clock.advance(1.0)
    spin(timed, lambda: len(made) == 2)
    assert connector.connection is made[1].connection
    assert connector.next_attempt is None
    connector.cancel()
    assert connector.state is ConnectorState.CONNECTED  # the connection stays
    made[1].connection.abort()
    tick(timed)
    assert connector.state is ConnectorState.DONE


def test_example_of_a_connector_runs():
    ran = doctest.testmod(connector_module)
    assert ran.attempted
    assert not ran.failed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": 0}, "first must be"),
        ({"max_delay": -1}, "max_delay must be"),
        ({"first": 2, "max_delay": 1}, r"first \(2\) must not be above max_delay \(1\)"),
        ({"attempts": 0}, "attempts must be a whole number of 1 or more, not 0"),
    ],
)
def test_invalid_field_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Reconnect(**fields)


def test_jitter_shortens_a_delay_by_up_to_half():
    assert Reconnect(random=lambda: 0.0).spread(8) == 4
    assert Reconnect(random=lambda: 1.0).spread(8) == 8
    assert 4 <= Reconnect().spread(8) <= 8


@pytest.mark.parametrize("random", [lambda: 2.0, lambda: float("nan"), lambda: 1 / 0])
def test_random_that_fails_is_reported_and_the_full_delay_used(timed, clock, errors, path, random):
    failures = []
    connector = timed.connect(
        path, Recorder, on_failure=failures.append, reconnect=Reconnect(first=1.0, random=random)
    )
    tick(timed)
    assert len(failures) == 1
    assert errors.take()[1] == f"Reconnect.random of {connector!r}"
    assert connector.next_attempt == clock.now + 1.0
