"""The servers that are measured: each that is installed echoes, and its idle timeout ends a connection."""

import socket

import pytest

from bench.harness.clients import talk_once
from bench.harness.echoes import ECHOES, TIMED_ECHOES
from bench.harness.measure import serving
from bench.harness.rounds import missing_packages
from tests.helpers import DEADLINE


def installed(kinds):
    missing = missing_packages(list(kinds))
    return [kind for kind in kinds if kind not in missing]


@pytest.mark.parametrize("kind", installed(ECHOES))
def test_echoes_on_several_connections_and_uses_cpu_time(kind):
    with serving(kind, "echo") as server:
        for size in (1, 100_000):
            with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as connection:
                talk_once(connection, bytes(i % 251 for i in range(size)))
        assert server.cpu_seconds() > 0
        assert server.anonymous_bytes() > 0


@pytest.mark.parametrize("kind", installed(TIMED_ECHOES))
def test_idle_timeout_ends_a_connection(kind):
    with (
        serving(kind, "timed-echo", "0.2") as server,
        socket.create_connection(("127.0.0.1", server.port), DEADLINE) as connection,
    ):
        talk_once(connection)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass  # it was aborted
