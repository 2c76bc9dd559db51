"""The metrics that several benchmarks share."""

from __future__ import annotations

from bench.results.schema import Metric

__all__ = [
    "CONNECTION_MEMORY",
    "CPU",
    "CPU_BYTE",
    "CPU_CONNECTION",
    "CPU_HANDSHAKE",
    "FIXED_CPU",
    "FIXED_P99",
    "FIXED_UTILISATION",
    "P50",
    "P99",
    "RATE",
    "RATE_BYTES",
    "RATE_CONNECTIONS",
    "RATE_HANDSHAKES",
    "UTILISATION",
    "WAITED",
]

CPU = Metric("CPU/message", "s", "lower", compared=True)
RATE = Metric("rate", "messages/s", "higher", compared=True)
CPU_CONNECTION = Metric("CPU/connection", "s", "lower", compared=True)
RATE_CONNECTIONS = Metric("rate", "connections/s", "higher", compared=True)
CPU_BYTE = Metric("CPU/GB", "s", "lower", compared=True)
RATE_BYTES = Metric("rate", "MB/s", "higher", compared=True)
CPU_HANDSHAKE = Metric("CPU/handshake", "s", "lower", compared=True)
RATE_HANDSHAKES = Metric("rate", "handshakes/s", "higher", compared=True)

#: The part of its time in which the server was busy: rate times CPU per message, of the time in which neither
#: it nor the load was kept waiting. A load that is not the bottleneck keeps it near 1.
UTILISATION = Metric("utilisation", "1", "higher")

#: Where the load's rate is fixed, latency is what is compared.
FIXED_P99 = Metric("p99", "s", "lower", compared=True)
FIXED_CPU = Metric("CPU/message", "s", "lower")
FIXED_UTILISATION = Metric("utilisation", "1")

#: The part of the time in which the server or the load was ready to run and another process had its core.
WAITED = Metric("kept waiting", "1")

P50 = Metric("p50", "s", "lower")
P99 = Metric("p99", "s", "lower")

CONNECTION_MEMORY = Metric("memory/connection", "B", "lower", compared=True)
