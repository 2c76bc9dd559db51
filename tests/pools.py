"""Shared by the tests of pools: a server with a pool, and a handler."""

import threading

import pytest

from reactor import IdleTimeout, ReadTimeout, Timeouts, WriteTimeout
from reactor.connection.connection import activity
from reactor.pool import Pool
from tests.helpers import DEADLINE, spin

BIG = bytes(range(256)) * 4096 * 8  # 8 MiB


def echo(connection):
    while data := connection.recv(1024):
        connection.sendall(data)


def blocking_call(name, timeouts, call, error=IdleTimeout):
    """Return a parameter of a test: a call that blocks until a timeout, and the error that it then raises."""
    return pytest.param(timeouts, call, error, id=name)


BLOCKING_CALLS = [
    blocking_call("idle", Timeouts(idle=0.05), lambda connection: connection.recv(1)),
    blocking_call("read", Timeouts(read=0.05), lambda connection: connection.recv(1), ReadTimeout),
    blocking_call(
        "write", Timeouts(write=0.05), lambda connection: connection.sendall(BIG * 4), WriteTimeout
    ),
    blocking_call("makefile", Timeouts(idle=0.05), lambda connection: connection.makefile("rb").read()),
]


def blocked_in(raised, blocks, *again):
    """Return a handler that calls `blocks(connection)` and keeps its error, which `again` must raise, too."""

    def handler(connection):
        try:
            blocks(connection)
        except OSError as exc:
            raised.append(exc)
            for call in again:
                with pytest.raises(type(exc)):
                    call(connection)
            raise

    return handler


def hears(heard):
    """Return a handler that adds each byte to `heard`."""

    def handler(connection):
        while data := connection.recv(1):
            heard.append(data)

    return handler


def assert_byte_is_activity(reactor, client, heard):
    spin(reactor, reactor.connections)
    (connection,) = reactor.connections()
    before = activity(connection)
    client.sendall(b"x")
    spin(reactor, lambda: heard and activity(connection) > before)


@pytest.fixture
def serve(reactor):
    """Return a function: `serve(handler, workers=4, **options)` listens with a pool and returns the address.

    At the end it fails the test by a worker that is not freed, or a thread that stays.
    """
    pools = []

    def serve(handler, workers=4, **options):
        pools.append(Pool(handler, workers=workers))
        return reactor.listen("127.0.0.1:0", pools[-1], **options).addresses[0]

    yield serve
    for pool in pools:
        assert pool.close(DEADLINE), "a worker was not freed"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reactor-pool")]
