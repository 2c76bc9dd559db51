"""Bytes one way: to a server that drops them (the first byte is D), or from it (S)."""

from __future__ import annotations

import socket
import ssl
import time

from bench.harness.measure import Server, Used
from bench.harness.metrics import CPU_BYTE, RATE_BYTES
from bench.results.schema import Metric

__all__ = ["bulk_figures", "move"]

_CHUNK = 1 << 18  # bytes


def move(opened: socket.socket, word: bytes, seconds: float, server: Server) -> dict[Metric, float]:
    """Send the word, then move bytes for so long; TLS or not, as `opened` is."""
    chunk = bytearray(_CHUNK)
    drop = 0 if isinstance(opened, ssl.SSLSocket) else socket.MSG_TRUNC  # nothing is copied: tcp(7)
    moved = 0
    opened.sendall(word)
    with server.usage() as used:
        started = time.perf_counter()
        while (took := time.perf_counter() - started) < seconds:
            moved += opened.send(chunk) if word == b"D" else opened.recv_into(chunk, _CHUNK, drop)
    return bulk_figures(moved, took, used)


def bulk_figures(moved: int, took: float, used: Used) -> dict[Metric, float]:
    """Return the figures of so many bytes."""
    return {CPU_BYTE: used.cpu / moved * 1e9, RATE_BYTES: moved / took / 1e6, **used.shares(took)}
