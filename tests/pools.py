"""Shared by the tests of pools: a server with a pool, and a handler."""

import threading

import pytest

from reactor.pool import Pool
from tests.helpers import DEADLINE

BIG = bytes(range(256)) * 4096 * 8  # 8 MiB


def echo(connection):
    while data := connection.recv(1024):
        connection.sendall(data)


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
