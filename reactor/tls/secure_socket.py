"""`SecureSocket`: TLS on a non-blocking socket, with the interface of a socket.

It has the methods of a socket that a connection uses, so that receiving, sending, limits and closing exist
once, in the connection. OpenSSL never touches the descriptor: received bytes are written into one memory
BIO, and output is read from another. One pair of BIOs serves all connections of a reactor, because both are
empty between two calls: OpenSSL copies the beginning of a record into a buffer of its own, and output that
the kernel does not accept is kept here.

Why not OpenSSL on the descriptor (`ssl.SSLSocket`): it reads each record with two system calls, one for
its length. Why not a pair of BIOs for each connection, as asyncio: their buffers never shrink, and take 3 KB
or more each.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import attrs

from reactor.errors import Incomplete, TLSError, TLSHandshakeError, TLSTruncated, UsageError
from reactor.options import check_type
from reactor.tls.client_hello import server_name

__all__ = ["ENDED_EARLY", "TLS_FACTS", "Bios", "SecureSocket", "Tls", "words_of"]

#: Limit of the bytes encrypted per system call: four records of RFC 8446, 5.1.
_CHUNK = 64 * 1024

# Connections whose OpenSSL object may hold a read buffer while they are idle.
_WARM_LIMIT = 128

#: Bytes per recv(2), into a buffer that all connections share. A quarter of it makes bulk a fifth slower.
_INPUT = 256 * 1024

#: Bytes per SSL_read: the content of a record, so that none of it stays in OpenSSL.
_RECORD = 16 * 1024

# Limit of the bytes of a record on the wire: RFC 5246, 6.2.3; that of RFC 8446, 5.2, is lower.
_WIRE_RECORD = _RECORD + 2048 + 5

#: Limit of the encrypted bytes that are kept: one chunk of data, and answers to the peer's key updates.
_OUTPUT_LIMIT = 2 * _CHUNK


#: Message about a peer that ends the connection during the handshake.
ENDED_EARLY = "the peer ended the connection in the middle of it"


class Bios:
    """The memory BIOs and the receive buffer that all TLS connections of a reactor share.

    incoming, outgoing: OpenSSL's input and output, both empty between two calls. buffer: for recv_into(2).
    """

    __slots__ = ("_warm", "buffer", "incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.buffer = memoryview(bytearray(_INPUT))
        self._warm: OrderedDict[SecureSocket, None] = OrderedDict()

    def warmed(self, sock: SecureSocket) -> None:
        """Note that OpenSSL holds a read buffer, 16 KiB, for `sock`; above the limit, release the oldest."""
        self._warm[sock] = None
        if len(self._warm) > _WARM_LIMIT:
            self._warm.popitem(last=False)[0].cool_down()

    def warm(self) -> int:
        """Return how many sockets hold a read buffer."""
        return len(self._warm)

    def forget(self, sock: SecureSocket) -> None:
        """Remove `sock`, which is closed."""
        self._warm.pop(sock, None)


@attrs.frozen(eq=False)
class Tls:
    """TLS settings of a connection, from which its `SecureSocket` is made.

    server_hostname: the name that a client asks for and that the certificate must have; None on the server's
        side. session: the session that a client resumes; None for a new one.
    Raises UsageError for a context of the other side, or one that checks host names without
    `server_hostname`; TypeError for a context that is none.
    """

    context: ssl.SSLContext
    bios: Bios
    server_side: bool
    server_hostname: str | None = None
    session: ssl.SSLSession | None = None

    def __attrs_post_init__(self) -> None:
        check_type("context", self.context, ssl.SSLContext)
        check_type("server_hostname", self.server_hostname, str, optional=True)
        other = ssl.PROTOCOL_TLS_CLIENT if self.server_side else ssl.PROTOCOL_TLS_SERVER
        if self.context.protocol is other:
            raise UsageError(
                f"the context is one for the {'client' if self.server_side else 'server'}'s side"
            )
        if not self.server_side and self.context.check_hostname and not self.server_hostname:
            raise UsageError("the context checks host names: give server_hostname")
        if self.server_hostname is not None or self.session is not None:
            try:
                self._wrap(ssl.MemoryBIO(), ssl.MemoryBIO())
            except (ValueError, ssl.SSLError) as exc:  # a UnicodeError is one too
                raise UsageError(f"server_hostname or tls_session is not for this context: {exc}") from exc

    def secure(self, sock: socket.socket, clock: Callable[[], float], clear_left: int = 0) -> SecureSocket:
        """Return a `SecureSocket` on `sock`.

        clock: returns the time, in seconds. clear_left: how many of the next bytes to send in clear.
        """
        made = self._wrap(self.bios.incoming, self.bios.outgoing)
        return SecureSocket(sock, self.bios, made, clock, clear_left)

    def wrap_socket(self, sock: socket.socket) -> ssl.SSLSocket:
        """Return an `ssl.SSLSocket` that takes over `sock`, before its handshake.

        Raises OSError if the connection has ended.
        """
        return self.context.wrap_socket(
            sock,
            server_side=self.server_side,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=self.server_hostname,
            session=self.session,
        )

    def _wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self.context.wrap_bio(incoming, outgoing, self.server_side, self.server_hostname, self.session)


class SecureSocket:
    """TLS on a connected non-blocking socket. Its methods raise the errors of a socket, or TLSError.

    ssl: OpenSSL's object. clear_left: how many of the next bytes `send` sends in clear. The output of the
        handshake waits for them, so that an upgrade does not overtake what was written before.
    since: when the handshake began, or when the last of those was sent; in the clock's seconds.
    established: the handshake is complete. sni: the host name that the client asks for, or None.
    stalled: OpenSSL must receive something before it sends more.
    in_record: part of a record was received.
    needs_slow_path: the handshake is incomplete, or there is input or output that no selector reports.
    """

    __slots__ = (
        "_accepted", "_bios", "_buffer", "_clear", "_clock", "_end", "_hello", "_incoming", "_notified",
        "_outgoing", "_output", "_sock", "_warm", "clear_left", "established", "in_record",
        "needs_slow_path", "since", "sni", "ssl", "stalled",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        bios: Bios,
        made: ssl.SSLObject,
        clock: Callable[[], float],
        clear_left: int,
    ) -> None:
        self._sock = sock
        self._bios = bios
        self._buffer = bios.buffer
        self._incoming = bios.incoming
        self._outgoing = bios.outgoing
        self.ssl = made
        self._clock = clock
        self.since = clock()
        self.sni: str | None = made.server_hostname
        self._hello = b"" if made.server_side else None  # until `sni` is known
        self.established = False
        self.stalled = False
        self.in_record = False
        self.needs_slow_path = True
        self._clear = b""  # decrypted, and not returned by `recv` yet
        self._end: TLSError | bytes | None = None  # the result of `recv` after that
        self._output: bytes | memoryview = b""  # encrypted, and not accepted by the kernel
        self.clear_left = clear_left
        self._accepted = 0  # clear bytes in `_output` that no call of `send` has reported as sent
        self._notified = False  # our close_notify was created
        self._warm = False  # OpenSSL holds a read buffer

    # The handshake

    def handshake(self) -> bool:
        """Receive, and continue the handshake; return whether it is complete.

        Raises BlockingIOError if nothing was received, TLSHandshakeError if it failed.
        """
        data = self._sock.recv(_CHUNK)
        if not data:
            raise TLSHandshakeError(ENDED_EARLY)
        return self.go_on(data)

    def go_on(self, data: bytes) -> bool:
        """Begin or continue the handshake; return whether it is complete. data: received bytes of it.

        Raises TLSHandshakeError if it failed.
        """
        if self._hello is not None:
            self._look_for_name(self._hello + data)
        try:
            self._incoming.write(data)
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                self._put_output()
                return False
            except ssl.SSLError as exc:
                if not self._outgoing.pending and exc.reason in _NOT_TLS:
                    self._outgoing.write(_UNEXPECTED_MESSAGE)
                self._incoming.read()
                self._put_output()
                raise TLSHandshakeError(words_of(exc)) from exc
            self.established = True
            if self._incoming.pending:
                self._clear = self._read_all()
            self._put_output()
        except BaseException as exc:
            self._clean_up(exc)
            raise
        if not self._warm:
            self._warm_up()
        return True

    def _look_for_name(self, hello: bytes) -> None:
        name = server_name(hello)
        self._hello = hello if name is None else None
        self.sni = name or None

    # Receiving

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive and return decrypted bytes; b"" after the peer's close_notify.

        size: limit in bytes; if it is 64 KiB or more, all that one recv(2) yields is returned.
        Raises Incomplete if input was received that yields no decrypted bytes yet.
        """
        if self.needs_slow_path or size < _CHUNK:
            return self._recv(size, flags)
        try:
            buffer = self._buffer
            received = self._sock.recv_into(buffer)
            self._incoming.write(buffer[:received])
            clear = self.ssl.read(_RECORD)
            if self._incoming.pending or not clear:
                return self._give_out(_INPUT, self._read_all(clear))
            self.in_record = False
            if self._outgoing.pending:
                self._put_output()
            if not self._warm:
                self._warm_up()
        except ssl.SSLError as exc:
            self._stop(exc, received)
            return self._give_out(_INPUT)
        except BaseException as exc:
            self._clean_up(exc)
            raise
        return clear

    def _recv(self, size: int, flags: int) -> bytes:
        has_more = self.has_more()
        if flags:  # MSG_PEEK: the caller only asks whether there is input
            return self._clear[:size] if has_more else self._sock.recv(size, flags)
        if not has_more:
            self.take_in(size)
        return self._give_out(size)

    def recv_into(self, buffer: Any) -> int:
        """Receive decrypted bytes into `buffer`; return how many, 0 after the peer's close_notify."""
        view = memoryview(buffer).cast("B")
        data = self._recv(len(view), 0)
        view[: len(data)] = data
        return len(data)

    def has_more(self) -> bool:
        """Return whether `recv` would return at once, though no selector reports input."""
        return bool(self._clear) or self._end is not None

    def take_in(self, size: int = _CHUNK) -> None:
        """Receive up to `size` bytes, decrypt them, and keep the result for `recv`."""
        if self._end is not None:
            return
        try:
            data = self._sock.recv(size)
            if data:
                self._incoming.write(data)
                self._clear += self._read_all()
            else:
                self._finish(_truncated())
        except BaseException as exc:
            self._clean_up(exc)
            raise

    def _give_out(self, size: int, clear: bytes = b"") -> bytes:
        clear = self._clear + clear if self._clear else clear
        self._clear = clear[size:]
        if self._clear:
            self.needs_slow_path = True
            return clear[:size]
        if clear:
            return clear
        if self._end is None:
            raise Incomplete
        if isinstance(self._end, TLSError):
            raise self._end
        return b""

    def _read_all(self, first: bytes | None = None) -> bytes:
        """Return `first`, which is b"" at the end, and all that can be decrypted now."""
        read, incoming = self.ssl.read, self._incoming
        pieces = [] if first is None else [first]
        self.in_record = False
        try:
            whole = incoming.pending // _WIRE_RECORD  # at least so many records are complete
            pieces.extend(map(read, repeat(_RECORD, whole)))
            while incoming.pending and (not pieces or pieces[-1]):
                pieces.append(read(_RECORD))
            if pieces and not pieces[-1]:
                self._finish(b"")
        except ssl.SSLWantReadError:
            self.in_record = True
        except ssl.SSLError as exc:
            self._stop(exc, 1)
        self.stalled = False
        if self._outgoing.pending:
            self._put_output()
        if not self._warm:
            self._warm_up()
        return b"".join(pieces)

    def _stop(self, exc: ssl.SSLError, received: int) -> None:
        """Note an incomplete record, or the end of the input, after `exc` and `received` bytes."""
        if isinstance(exc, ssl.SSLWantReadError):
            if received:
                self.in_record = True
                self._put_output()  # the answer to a handshake message, if there is one
            else:
                self._finish(_truncated())
        elif isinstance(exc, ssl.SSLZeroReturnError):
            self._finish(b"")
        else:
            error = TLSError(words_of(exc))
            error.__cause__ = exc
            self._finish(error)

    def _finish(self, end: TLSError | bytes) -> None:
        self._end = end
        self.needs_slow_path = True
        self.stalled = False  # nothing more is received
        self._incoming.read()  # discard what follows the end
        self._put_output()

    def _clean_up(self, exc: BaseException) -> None:
        """Empty the shared BIOs for the next connection; after an interrupt, end this one."""
        self._incoming.read()
        self._outgoing.read()
        if not isinstance(exc, Exception):
            self._end = TLSError("an interrupt came in the middle of a record")
            self.needs_slow_path = True

    def _warm_up(self) -> None:
        # May cool another socket down, which uses the shared BIOs: they must be empty here.
        self._warm = True
        self._bios.warmed(self)

    def cool_down(self) -> None:
        """Make OpenSSL release its read buffer.

        With SSL_MODE_RELEASE_BUFFERS, which Python sets, it does so in a read that finds no input:
        SSL_CTX_set_mode(3). Such a read after each message would cost a fifth of the message.
        There is no input here: all records were read, and nothing was received since.
        """
        self._warm = False
        if self._end is None:
            with contextlib.suppress(ssl.SSLError):
                self.ssl.read(_RECORD)

    # Sending

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send; return how many of the clear bytes are sent; 0 means: repeat the call later.

        The repeated call must begin with the same bytes, as for SSL_write(3): what is encrypted already is
        not encrypted again.
        """
        if self.needs_slow_path:
            if isinstance(self._end, TLSError):
                raise self._end
            if self.clear_left:
                return self._send_clear(data)
            if self._output or self._accepted or not self.established:
                self.flush()
                sent = self._settle()
                if sent or self._output or not self.established:
                    return sent
        try:
            try:
                # All of it or none, as without SSL_MODE_ENABLE_PARTIAL_WRITE: SSL_write(3).
                done = self.ssl.write(data if len(data) <= _CHUNK else memoryview(data)[:_CHUNK])
            except ssl.SSLError as exc:
                done = self._stall(exc)
            output = self._outgoing.read()
            try:
                sent = self._sock.send(output)
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent == len(output):
                return done
            self._output = output[sent:]
            self._accepted = done
            self.needs_slow_path = True
            return self._settle()
        except BaseException as exc:
            self._clean_up(exc)
            raise

    def _send_clear(self, data: bytes | memoryview) -> int:
        sent = self._sock.send(data if len(data) <= self.clear_left else memoryview(data)[: self.clear_left])
        self.clear_left -= sent
        if not self.clear_left:
            self.since = self._clock()
            self._put_output()
        return sent

    def _stall(self, exc: ssl.SSLError) -> int:
        if not isinstance(exc, ssl.SSLWantReadError):
            self._put_output()
            raise TLSError(words_of(exc)) from exc
        self.stalled = self.needs_slow_path = True
        return 0

    def sendmsg(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Send the pieces in order; else as `send`."""
        taken: list[bytes | memoryview] = []
        size = 0
        for piece in pieces:
            taken.append(piece if len(piece) <= _CHUNK else memoryview(piece)[:_CHUNK])
            size += len(piece)
            if size >= _CHUNK:
                break
        return self.send(b"".join(taken))

    def has_output(self) -> bool:
        """Return whether there is encrypted output to be sent now: no clear bytes come before it."""
        return bool(self._output) and not self.clear_left

    def flush(self) -> None:
        """Send encrypted output, as far as the kernel accepts it."""
        if not self.has_output():
            return
        try:
            sent = self._sock.send(self._output)
            self._output = self._output[sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except BaseException as exc:
            self._clean_up(exc)
            raise

    def _settle(self) -> int:
        # There are always more encrypted bytes than clear ones in them.
        sent = max(0, self._accepted - len(self._output))
        self._accepted -= sent
        return sent

    def _put_output(self) -> None:
        self._output = b"".join((self._output, self._outgoing.read()))
        try:
            self.flush()
        except OSError:
            pass  # the next call that uses the socket raises it
        if self._output:
            self.needs_slow_path = True
            if self.established and len(self._output) > _OUTPUT_LIMIT and self._end is None:
                self._end = TLSError("the peer takes none of the answers that TLS has for it")

    def look_again(self) -> None:
        """Update `needs_slow_path`."""
        waiting = self.has_more() or self._output or self._accepted or self.stalled
        self.needs_slow_path = bool(waiting) or not self.established

    # Closing, and the other methods of a socket

    def end(self) -> bool:
        """Send our close_notify; return whether the kernel has accepted it and all output before it.

        OpenSSL sends none during the handshake. Once the cipher is chosen, the peer may have completed its
        side, and would take an end without close_notify for a truncation. So this returns False until our
        side is complete too.
        """
        try:
            if self.established and not self._notified:
                self._notified = True
                with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's close_notify
                    self.ssl.unwrap()
            self._put_output()
        except BaseException as exc:
            self._clean_up(exc)
            raise
        return not self._output and not self.is_half_done()

    def is_half_done(self) -> bool:
        """Return whether the handshake may be complete on the peer's side, but not yet on ours."""
        return not self.established and self.ssl.cipher() is not None

    def close(self) -> None:
        """Close the socket without a close_notify."""
        self.detach().close()

    def detach(self) -> socket.socket:
        """Return the kernel socket, and stop using it."""
        self._bios.forget(self)
        return self._sock

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """Return our own address."""
        return self._sock.getsockname()

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Set a socket option."""
        self._sock.setsockopt(level, option, value)

    @property
    def bare(self) -> socket.socket:
        """The kernel socket."""
        return self._sock


#: The TLS values of `Connection.get_extra_info`, by name.
TLS_FACTS: dict[str, Callable[[SecureSocket], Any]] = {
    "ssl_object": lambda sock: sock.ssl,
    "sslcontext": lambda sock: sock.ssl.context,
    "cipher": lambda sock: sock.ssl.cipher(),
    "alpn_protocol": lambda sock: sock.ssl.selected_alpn_protocol(),
    "peercert": lambda sock: sock.ssl.getpeercert(),
    "sni": lambda sock: sock.sni,
}


# OpenSSL's reasons for input that is not TLS, and the messages for them.
_NOT_TLS = {
    "WRONG_VERSION_NUMBER": "what the peer sends is not TLS",
    "PACKET_LENGTH_TOO_LONG": "what the peer sends is not TLS",
    "UNEXPECTED_MESSAGE": "the peer does not speak TLS, or breaks its rules: unexpected message",
    "HTTP_REQUEST": "the peer speaks HTTP without TLS",
    "HTTPS_PROXY_REQUEST": "the peer speaks to a proxy, without TLS",
}

# OpenSSL's reasons for alerts by which the peer refuses our certificate (RFC 8446, 6.2).
_CERTIFICATE_ALERTS = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)

# A fatal alert, unexpected_message (RFC 8446, 6.2), as a first record; OpenSSL sends none in this case.
_UNEXPECTED_MESSAGE = bytes.fromhex("15 0301 0002 020a")


def _truncated() -> TLSTruncated:
    return TLSTruncated("the peer ended the connection without a close_notify")


def words_of(exc: ssl.SSLError) -> str:
    """Return OpenSSL's reason as a readable message."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {exc.verify_message}"
    reason = exc.reason or str(exc)
    words = reason.replace("_", " ").lower()
    if reason in _CERTIFICATE_ALERTS:
        return f"the peer does not accept our certificate: {words}"
    return _NOT_TLS.get(reason, words)
