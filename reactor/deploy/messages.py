"""Messages between two processes over a Unix socket: a JSON header, a body of bytes, maybe a descriptor.

A message begins with the length of its header and of its body, and with whether a descriptor belongs to it.
The descriptor is sent with the first byte (SCM_RIGHTS, unix(7)), so it is there when the message is complete.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any

from reactor.connection.interrupts import Step
from reactor.errors import HandoverError
from reactor.reactor import Reactor

__all__ = ["Messages"]

_PREFIX = Struct("!IQ?")

# Bytes, and those of descriptors, received per call, and calls per event. socket.recv_fds is not used: in
# Python 3.11 it ignores its flags, and programs that this process starts would inherit the descriptors.
_RECV_SIZE = 64 * 1024
_ANCILLARY = socket.CMSG_SPACE(8 * array("i").itemsize)
_RECEIVES = 16

# Seconds until another try when too many descriptors are on their way: ETOOMANYREFS, unix(7).
_PAUSE = 0.01


class Messages:
    """Messages over `sock`, a connected Unix stream socket, which is made non-blocking, and owned.

    on_message: called with header, body and descriptor or None of each message; it owns the descriptor. After
        an interrupt in it, it is called again for that message.
    on_end: called once, when the peer has ended its messages (None), or with the error that ended them here.
    on_clear: called when all that was sent has been accepted by the kernel, after it was not.
    on_interrupt: called with KeyboardInterrupt or the like, in what the reactor calls here.

    lost_input, lost_output: whether an interrupt may have lost what was received, or what was to be sent.
    repeats: set after an interrupt, so that the message in which it came is handled again.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        *,
        on_message: Callable[[dict[str, Any], bytes, int | None], object],
        on_end: Callable[[OSError | None], object],
        on_clear: Callable[[], object],
        on_interrupt: Callable[[BaseException], object],
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._on_clear = on_clear
        self._on_interrupt = on_interrupt
        self.lost_input = False
        self.lost_output = False
        self.repeats = False
        self._handled: tuple[dict[str, Any], bytes, int | None] | None = None  # at the moment
        self._outgoing: deque[tuple[bytes | memoryview, int | None]] = deque()
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()
        self._receives = True
        self._ended = False

    def begin(self) -> None:
        """Begin to receive, and to send."""
        self._sock.setblocking(False)
        self._reactor.add_reader(self._sock, self._run, self._receive)

    def go_on_later(self) -> None:
        """Go on in the next tick, after an interrupt."""
        self._reactor.call_soon(self._run, self._go_on)

    def _run(self, step: Callable[[], object]) -> None:
        with Step(self._on_interrupt):
            step()

    def _go_on(self) -> None:
        if self._sock.fileno() >= 0:
            self._on_writable()
            self._receive()

    def send(self, header: dict[str, Any], body: bytes = b"", descriptor: int | None = None) -> None:
        """Send a message after those before. The descriptor stays the caller's, who may close it at once."""
        if self._ended or self.lost_output:
            return
        text = json.dumps(header).encode()
        data = _PREFIX.pack(len(text), len(body), descriptor is not None) + text + body
        self.lost_output = True  # until it is in the queue
        self._outgoing.append((data, None if descriptor is None else os.dup(descriptor)))
        self.lost_output = False
        if len(self._outgoing) == 1:
            self._flush()

    def is_clear(self) -> bool:
        """Return whether the kernel has accepted all that was sent, so that the peer gets it."""
        return not (self._outgoing or self._ended or self.lost_output)

    def end_receiving(self) -> None:
        """Handle what was sent to this end until now; from now on the peer can send nothing more.

        The kernel decides which of its messages came in time: after shutdown(2) its send fails with EPIPE.
        """
        if self._sock.fileno() < 0:
            return
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the peer has closed its end already, which has the same effect
        self._receives = False
        while self._receive_once():
            pass

    def close(self) -> None:
        """Close the socket, and every descriptor on its way. More than once does nothing.

        The peer sees the end of it even if another process holds a copy of the socket, as its parent may.
        """
        self._ended = True
        if self._sock.fileno() < 0:
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has closed its end already
        self._reactor.remove_reader(self._sock)
        self._reactor.remove_writer(self._sock)
        while self._outgoing:
            _, descriptor = self._outgoing.popleft()
            if descriptor is not None:
                os.close(descriptor)
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._sock.close()

    def _flush(self) -> None:
        if self._sock.fileno() < 0 or self.lost_output:
            return
        try:
            while self._outgoing:
                self._send_first()
        except (BlockingIOError, InterruptedError):
            self._reactor.add_writer(self._sock, self._run, self._on_writable)
        except OSError as exc:
            if exc.errno == errno.ETOOMANYREFS:
                self._reactor.call_later(_PAUSE, self._run, self._on_writable)
            else:
                self._end_soon(exc)

    def _send_first(self) -> None:
        data, descriptor = self._outgoing[0]
        try:
            if descriptor is None:
                sent = self._sock.send(data)
            else:
                sent = socket.send_fds(self._sock, [data], [descriptor])
                self._outgoing[0] = data, None
                os.close(descriptor)
            if sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = memoryview(data)[sent:], None
        except OSError:
            raise  # nothing of it was sent
        except BaseException:
            self.lost_output = True
            raise

    def _on_writable(self) -> None:
        if self._ended:
            return
        self._reactor.remove_writer(self._sock)
        self._flush()
        if self.is_clear():
            self._on_clear()

    def _receive(self) -> None:
        self._handle_received()
        for _ in range(_RECEIVES):
            if not self._receive_once():
                return

    def _receive_once(self) -> bool:
        """Receive once, and handle the messages that are complete; return whether there may be more."""
        if self._sock.fileno() < 0:
            return False
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_RECV_SIZE, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            for _, _, descriptors in ancillary:
                self._descriptors.extend(array("i", descriptors))
            self._incoming += data
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self._end_soon(exc)
            return False
        except BaseException:
            self.lost_input = True
            raise
        if flags & socket.MSG_CTRUNC:
            self._end_soon(HandoverError(errno.EMFILE, "no descriptors are left: raise the limit, ulimit -n"))
            return False
        if not data and self._receives:
            self._end_soon(None)
        return self._handle_received() and bool(data)

    def _handle_received(self) -> bool:
        """Handle the messages that are complete; return False if they can't be understood."""
        try:
            self._handle_complete()
        except (ValueError, KeyError, TypeError, IndexError) as exc:
            self._end_soon(HandoverError(errno.EPROTO, f"a message can't be understood: {exc!r}"))
            return False
        except OSError as exc:
            self._end_soon(exc)
            return False
        return True

    def _handle_complete(self) -> None:
        data = self._incoming
        if self.repeats:
            self.repeats = False
            self._handle()
        while len(data) >= _PREFIX.size:
            header, body, has_descriptor = _PREFIX.unpack_from(data)
            start, end = _PREFIX.size + header, _PREFIX.size + header + body
            if len(data) < end:
                return
            text, content = bytes(data[_PREFIX.size : start]), bytes(data[start:end])
            self._handled = json.loads(text), content, self._descriptors.popleft() if has_descriptor else None
            del data[:end]
            self._handle()

    def _handle(self) -> None:
        if self._handled is not None:
            self._on_message(*self._handled)
            self._handled = None

    def _end_soon(self, exc: OSError | None) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.remove_reader(self._sock)
            self._reactor.remove_writer(self._sock)
        if not self._ended:
            self._reactor.call_soon(self._on_end, exc)
            self._ended = True
