"""`connect udp:ADDRESS`: each line of standard input as a datagram, the peer's to standard output."""

from __future__ import annotations

import socket
import sys
from typing import Any

import attrs

from reactor.address import Address
from reactor.cli.arguments import CommandFailed
from reactor.cli.terminal import CHUNK, InputReader, write_output
from reactor.datagrams import DatagramInfo, DatagramLimits, DatagramProtocol, Endpoint
from reactor.errors import ConnectError
from reactor.loop.system import KERNEL
from reactor.loop.timers import Handle
from reactor.reactor import Reactor

__all__ = ["DatagramPeer", "exchange"]

# All lines of a chunk of input can be queued; the next one is read when they have been sent.
_LIMITS = DatagramLimits(max_queued_datagrams=2 * CHUNK, max_queued_bytes=64 * CHUNK)


@attrs.frozen
class DatagramPeer:
    """The ADDRESS of `connect udp:ADDRESS`."""

    address: Address

    def __str__(self) -> str:
        return f"udp:{self.address}"


def exchange(peer: DatagramPeer, wait: float) -> None:
    """Exchange datagrams until standard input has ended, and for `wait` seconds nothing has come.

    Raises CommandFailed for a peer that can't be reached, and for standard input or output that fails,
    AddressError for an address that can't be sent to.
    """
    with Reactor() as loop:
        terminal = _Terminal(loop, peer, wait)
        if peer.address.path is not None and sys.platform == "linux":
            loop.bind_datagram(_named_socket(peer.address), lambda: terminal, limits=_LIMITS)
        else:
            loop.connect_datagram(peer.address, lambda: terminal, limits=_LIMITS, on_failure=terminal.end)
        loop.run()
    if isinstance(terminal.problem, CommandFailed):
        raise terminal.problem
    if terminal.problem is not None:
        raise CommandFailed(str(terminal.problem)) from terminal.problem


def _named_socket(address: Address) -> socket.socket:
    """Return a Unix socket connected to `address`, with a name by the kernel, for answers: unix(7)."""
    assert address.path is not None
    sock = KERNEL.new_datagram_socket(socket.AF_UNIX)
    try:
        sock.bind("")
        sock.connect(address.path)
    except OSError as exc:
        sock.close()
        raise CommandFailed(f"cannot connect to {address}: {exc.strerror}") from exc
    return sock


class _Terminal(DatagramProtocol):
    """Standard input to the peer, line by line, and the peer's datagrams to standard output."""

    def __init__(self, loop: Reactor, peer: DatagramPeer, wait: float) -> None:
        self.problem: CommandFailed | ConnectError | None = None
        self._loop = loop
        self._peer = peer
        self._wait = wait
        self._input = InputReader(loop, self._send_lines, self.end)
        self._begun = b""  # a line that has not ended yet
        self._paused = False
        self._timer: Handle | None = None  # from the end of the input on

    def end(self, problem: CommandFailed | ConnectError | None = None) -> None:
        """End the command, for this reason; None: it is done."""
        self.problem = self.problem or problem
        self._loop.stop()

    def connection_made(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._input.start()

    def datagram_received(self, data: bytes, address: Any, info: DatagramInfo | None = None) -> None:
        try:
            write_output(data)
        except CommandFailed as exc:
            self.end(exc)
        if self._timer is not None:
            self._wait_for_more()

    def error_received(self, exc: OSError, address: Any) -> None:
        self.end(CommandFailed(f"cannot reach {self._peer}: {exc.strerror}"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._input.go_on()

    def _send_lines(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._endpoint.send(line + b"\n")
        if not data:
            if self._begun:
                self._endpoint.send(self._begun)
            self._wait_for_more()
        elif not self._paused:
            self._input.go_on()

    def _wait_for_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._wait, self._end_if_sent)

    def _end_if_sent(self) -> None:
        if self._endpoint.get_write_buffer_size():
            self._wait_for_more()
            return
        late = self._endpoint.stats().dropped.get("queue_timeout")
        self.end(
            CommandFailed(f"{late} datagrams were dropped: {self._peer} took none in time") if late else None
        )
