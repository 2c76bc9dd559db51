"""Happy eyeballs: overlapping attempts, of which the first to connect wins; the others are closed."""

import errno
import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Timeouts
from reactor.address import Address
from reactor.connecting.happy_eyeballs import ATTEMPT_DELAY, interleave
from reactor.reactor import loop_of
from reactor.testing import Recorder
from tests.helpers import DEADLINE, Echo, silent_address, spin

V4, V6 = socket.AF_INET, socket.AF_INET6


@given(st.lists(st.tuples(st.sampled_from([V4, V6, socket.AF_UNIX]), st.integers())))
def test_addresses_alternate_between_the_families(places):
    taken = interleave(places)
    assert sorted(taken) == sorted(places)
    for family in (V4, V6, socket.AF_UNIX):
        assert [p for p in taken if p[0] == family] == [p for p in places if p[0] == family]
    if places:
        assert taken[0] == places[0]
    families = [family for family, _ in taken]
    for at, (one, other) in enumerate(itertools.pairwise(families)):
        assert one != other or len(set(families[at:])) == 1, "one family twice while another waits"


@pytest.fixture
def silent():
    with silent_address() as address:
        yield Address.parse(address)


@pytest.fixture
def mute():
    """A second refused address: an address that was looked up twice is tried once."""
    with silent_address() as address:
        yield Address.parse(address)


@pytest.fixture
def names(monkeypatch):
    """The addresses that every name resolves to."""
    found = []
    known = socket.getaddrinfo

    def getaddrinfo(host, *args, **options):
        if host != "name.invalid":
            return known(host, *args, **options)
        return [(where.family, socket.SOCK_STREAM, 6, "", (where.host, where.port)) for where in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return found


def refused():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return Address.of(sock.getsockname()[:2])


def looked_up(reactor):
    """Drive until the first attempts are pending."""
    spin(reactor, lambda: attempts(reactor))


def attempts(reactor):
    """Return the number of pending attempts: only they are registered for EVENT_WRITE."""
    watched = loop_of(reactor).registry.selector.get_map()
    return sum(watched[fd].events == 2 for fd in watched)


@pytest.mark.usefixtures("descriptors")
def test_second_address_is_tried_in_parallel_and_wins(timed, clock, names, silent):
    recorder = Recorder()
    listener = timed.listen("127.0.0.1:0", Echo)
    names += [silent, listener.addresses[0]]
    connector = timed.connect("name.invalid:1", lambda: recorder)
    looked_up(timed)
    clock.advance(ATTEMPT_DELAY - 0.001)
    timed.run_once(0)
    assert attempts(timed) == 1
    assert not recorder.calls
    clock.advance(0.001)
    spin(timed, connector.is_done)
    assert attempts(timed) == 0
    peername = recorder.connection.get_extra_info("peername")
    assert Address.from_sockaddr(peername) == listener.addresses[0]
    recorder.connection.abort()
    spin(timed, lambda: not timed.connections())
    listener.close()


def test_next_address_is_tried_at_once_after_a_failure(timed, names):
    recorder = Recorder()
    listener = timed.listen("127.0.0.1:0", Echo)
    names += [refused(), refused(), listener.addresses[0]]
    connector = timed.connect("name.invalid:1", lambda: recorder)
    spin(timed, connector.is_done)
    assert recorder.names == ["connection_made"]


@pytest.mark.usefixtures("descriptors")
def test_timeout_lists_every_attempt_in_order(timed, clock, names, silent, mute):
    failures = []
    broken = refused()
    names += [silent, broken, mute]
    connector = timed.connect(
        "name.invalid:1", Recorder, timeouts=Timeouts(connect=3), on_failure=failures.append
    )
    looked_up(timed)
    for _ in range(3):
        clock.advance(ATTEMPT_DELAY)
        timed.run_once(0)
        timed.run_once(0)
    assert attempts(timed) == 2
    clock.advance(3)
    timed.run_once(0)
    assert connector.is_done()
    assert [(where, exc.errno) for where, exc in failures[0].attempts] == [
        (str(silent), errno.ETIMEDOUT),
        (str(broken), errno.ECONNREFUSED),
        (str(mute), errno.ETIMEDOUT),
    ]
    assert str(failures[0]) == (
        f"cannot connect to name.invalid:1: no answer within 3 s; {silent}: Connection timed out; "
        f"{broken}: Connection refused; {mute}: Connection timed out"
    )


def test_failure_is_reported_when_the_last_pending_attempt_has_failed(timed, clock, names, silent):
    failures = []
    names += [silent, refused()]
    timed.connect("name.invalid:1", Recorder, timeouts=Timeouts(connect=3), on_failure=failures.append)
    looked_up(timed)
    clock.advance(ATTEMPT_DELAY)
    for _ in range(3):
        timed.run_once(0.001)
    assert failures == []
    assert attempts(timed) == 1
    clock.advance(3)
    timed.run_once(0)
    assert len(failures) == 1


@pytest.mark.usefixtures("descriptors")
def test_cancel_closes_all_pending_attempts(timed, clock, names, silent, mute):
    names += [silent, mute]
    connector = timed.connect("name.invalid:1", Recorder)
    looked_up(timed)
    clock.advance(ATTEMPT_DELAY)
    timed.run_once(0)
    assert attempts(timed) == 2
    connector.cancel()
    assert attempts(timed) == 0
    assert timed.next_timeout() is None


def test_address_of_another_family_than_the_local_one_is_a_failed_attempt(reactor, names):
    recorder = Recorder()
    listener = reactor.listen("127.0.0.1:0", Echo)
    names += [Address.of(("::1", listener.addresses[0].port)), listener.addresses[0]]
    connector = reactor.connect("name.invalid:1", lambda: recorder, local_address="127.0.0.6:0")
    spin(reactor, connector.is_done, deadline=DEADLINE)
    assert recorder.connection.get_extra_info("sockname")[0] == "127.0.0.6"
