"""The memory of idle connections."""

from __future__ import annotations

from bench.harness.clients import open_connections, talk_once
from bench.harness.measure import serving
from bench.harness.metrics import CONNECTION_MEMORY
from bench.results.schema import Metric

__all__ = ["connection_memory"]


def connection_memory(name: str, number: int, kind: str) -> dict[Metric, float]:
    """Return the memory of each of `number` connections to a new server, with the program `name`."""
    with serving(kind, name) as server, open_connections(server.port, 1) as (first,):
        talk_once(first)  # what is made once is not the connections'
        before = server.anonymous_bytes()
        with open_connections(server.port, number) as opened:
            talk_once(opened[-1])
            return {CONNECTION_MEMORY: (server.anonymous_bytes() - before) / number}
