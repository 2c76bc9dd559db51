"""A socket that encrypts: TLS as a transform of a connection's bytes.

`SecureSocket` has the methods of a socket that a connection uses, so that receiving, sending, limits and
ways to end exist once, in the connection. OpenSSL never touches the descriptor: what came from it goes
into a memory BIO, and what is to go out is taken from another. One pair of them serves all connections of
a reactor, because between two calls both are empty: OpenSSL takes the beginning of a record into a buffer
of its own, and what the kernel does not take of the output waits here.

Why not OpenSSL on the descriptor (`ssl.SSLSocket`): it reads each record with two system calls, one for
its length. Why not a pair for each connection, as asyncio has: buffers keep the size that they have grown
to, 3 KB at least.
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

__all__ = ["ENDED_EARLY", "TLS_FACTS", "Bios", "SecureSocket", "Tls", "bare", "words_of"]

#: Bytes that are encrypted at most before the kernel is asked to take them: four records of RFC 8446, 5.1.
_CHUNK = 64 * 1024

# Connections that may hold a buffer for reading until they need it again.
_MOST_WARM = 128

#: Bytes received at once, into a buffer that all share. With a quarter of it, bulk takes a fifth more.
_INPUT = 256 * 1024

#: Asked of one SSL_read: what a record holds, so that nothing of it is left inside.
_RECORD = 16 * 1024

# No record takes more on the wire: RFC 5246, 6.2.3, and RFC 8446, 5.2, which has less.
_MOST_OF_RECORD = _RECORD + 2048 + 5

#: Bytes that may wait encrypted: what was written is one chunk, the rest answers to the peer's key updates.
_MOST_OUTPUT = 2 * _CHUNK


#: What is said of a peer that ends the connection during the handshake.
ENDED_EARLY = "the peer ended the connection in the middle of it"


class Bios:
    """What stands between OpenSSL and the kernel, for all connections of a reactor.

    incoming, outgoing: both empty but during a call. buffer: what was received last.
    """

    __slots__ = ("_warm", "buffer", "incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.buffer = memoryview(bytearray(_INPUT))
        self._warm: OrderedDict[SecureSocket, None] = OrderedDict()

    def warmed(self, sock: SecureSocket) -> None:
        """`sock` holds a buffer for reading, of 16 KiB: have the one that came first release its own."""
        self._warm[sock] = None
        if len(self._warm) > _MOST_WARM:
            self._warm.popitem(last=False)[0].cool_down()

    def warm(self) -> int:
        """Return how many hold a buffer."""
        return len(self._warm)

    def forget(self, sock: SecureSocket) -> None:
        """`sock` is closed."""
        self._warm.pop(sock, None)


@attrs.frozen(eq=False)
class Tls:
    """What is needed to secure a socket.

    server_hostname: whom a client asks for, and whose certificate is expected; None on the server's side.
    session: that a client would resume; None for a new one.
    Raises UsageError for a context of the other side, or one that checks a host name that is not given;
    TypeError for what is none.
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

    def secure(self, sock: socket.socket, clock: Callable[[], float], ahead: bytes = b"") -> SecureSocket:
        """Return what speaks TLS on `sock`.

        clock: returns the time, seconds. ahead: bytes that are to be sent in clear before.
        """
        made = self._wrap(self.bios.incoming, self.bios.outgoing)
        return SecureSocket(sock, self.bios, made, clock, ahead)

    def wrap_socket(self, sock: socket.socket) -> ssl.SSLSocket:
        """Return an `ssl.SSLSocket` in the place of `sock`. Its handshake is still to be done.

        Raises OSError if the peer has gone.
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
    """A connected socket that does not block, with TLS on it. Its errors are those of a socket, or TLSError.

    ssl: OpenSSL's side of it. since: when the handshake began, or when the peer last took some of what was
    written in clear before. clear_left: bytes of that which are left. established: the handshake is done.
    sni: the host name that the client asks for, or None.
    stalled: what is to be sent waits for something to be received.
    in_record: the beginning of a record has come, and not its end.
    unusual: the handshake is not done, or something waits here that no selector knows of.
    """

    __slots__ = (
        "_accepted", "_bios", "_buffer", "_clear", "_clock", "_end", "_hello", "_incoming", "_notified",
        "_outgoing", "_output", "_sock", "_warm", "clear_left", "established", "in_record", "since", "sni",
        "ssl", "stalled", "unusual",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, bios: Bios, made: ssl.SSLObject, clock: Callable[[], float], ahead: bytes
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
        self.unusual = True
        self._clear = b""  # decrypted, and not given out
        self._end: TLSError | bytes | None = None  # what `recv` comes to when that is given out
        # What the kernel has to take: encrypted, unless it was written before.
        self._output: bytes | memoryview = memoryview(ahead) if ahead else b""
        self.clear_left = len(ahead)
        self._accepted = 0  # clear bytes of `_output` that nobody was told are sent
        self._notified = False  # our close_notify is made
        self._warm = False  # OpenSSL holds a buffer for reading

    # The handshake

    def handshake(self) -> bool:
        """Take what has come of the handshake, and go on with it; return whether it is done.

        Raises BlockingIOError if nothing has come, TLSHandshakeError if it has failed.
        """
        data = self._sock.recv(_CHUNK)
        if not data:
            raise TLSHandshakeError(ENDED_EARLY)
        return self.go_on(data)

    def go_on(self, data: bytes) -> bool:
        """Go on with the handshake, or begin it; return whether it is done. data: what was received of it.

        Raises TLSHandshakeError if it has failed.
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
        """Return what was decrypted, b"" after the peer's close_notify.

        size: bytes at most; but of 64 KiB and more is made what one look at the socket brings.
        Raises Incomplete when something has come, and none of it can be given out.
        """
        if self.unusual or size < _CHUNK:
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
        if flags:  # MSG_PEEK: whether there is anything is all that is asked
            return self._clear[:size] if has_more else self._sock.recv(size, flags)
        if not has_more:
            self.take_in(size)
        return self._give_out(size)

    def recv_into(self, buffer: Any) -> int:
        """Put what was decrypted into `buffer`; return how many bytes, 0 after the peer's close_notify."""
        view = memoryview(buffer).cast("B")
        data = self._recv(len(view), 0)
        view[: len(data)] = data
        return len(data)

    def has_more(self) -> bool:
        """Return whether `recv` has an answer that no selector knows of."""
        return bool(self._clear) or self._end is not None

    def take_in(self, size: int = _CHUNK) -> None:
        """Receive up to `size` bytes, decrypt them, and keep that for `recv`."""
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
            self.unusual = True
            return clear[:size]
        if clear:
            return clear
        if self._end is None:
            raise Incomplete
        if isinstance(self._end, TLSError):
            raise self._end
        return b""

    def _read_all(self, first: bytes | None = None) -> bytes:
        """Return `first`, which may be the end, and all that can be decrypted now."""
        read, incoming = self.ssl.read, self._incoming
        pieces = [] if first is None else [first]
        self.in_record = False
        try:
            whole = incoming.pending // _MOST_OF_RECORD  # so many are there to their end
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
        """See what `exc` says of so many bytes: they begin a record, or it is the end."""
        if isinstance(exc, ssl.SSLWantReadError):
            if received:
                self.in_record = True
                self._put_output()  # a handshake's answer, maybe
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
        self.unusual = True
        self._incoming.read()  # after its end the peer has nothing to say
        self._put_output()

    def _clean_up(self, exc: BaseException) -> None:
        """Leave nothing behind for another connection; after an interrupt, this one can't go on."""
        self._incoming.read()
        self._outgoing.read()
        if not isinstance(exc, Exception):
            self._end = TLSError("an interrupt came in the middle of a record")
            self.unusual = True

    def _warm_up(self) -> None:
        # Another may be asked to cool down then, which needs the pair of BIOs: nothing of ours is in it.
        self._warm = True
        self._bios.warmed(self)

    def cool_down(self) -> None:
        """Have OpenSSL release its buffer for reading.

        With SSL_MODE_RELEASE_BUFFERS, which Python sets, it does so when there is nothing to be read:
        SSL_CTX_set_mode(3). To ask it that after each message would cost a fifth of the message.
        Nothing is: whole records are asked for until it wants more, and nothing has come since.
        """
        self._warm = False
        if self._end is None:
            with contextlib.suppress(ssl.SSLError):
                self.ssl.read(_RECORD)

    # Sending

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send; return how many of the clear bytes are sent, of which 0 says: again, later.

        Again means with the same bytes at the beginning, as SSL_write(3) has it: what is encrypted already
        is not encrypted twice.
        """
        if self.unusual:
            if isinstance(self._end, TLSError):
                raise self._end
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
            self.unusual = True
            return self._settle()
        except BaseException as exc:
            self._clean_up(exc)
            raise

    def _stall(self, exc: ssl.SSLError) -> int:
        if not isinstance(exc, ssl.SSLWantReadError):
            self._put_output()
            raise TLSError(words_of(exc)) from exc
        self.stalled = self.unusual = True
        return 0

    def sendmsg(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Send the pieces one after the other; as `send`."""
        taken: list[bytes | memoryview] = []
        size = 0
        for piece in pieces:
            taken.append(piece if len(piece) <= _CHUNK else memoryview(piece)[:_CHUNK])
            size += len(piece)
            if size >= _CHUNK:
                break
        return self.send(b"".join(taken))

    def has_output(self) -> bool:
        """Return whether the kernel has not taken all that was encrypted."""
        return bool(self._output)

    def flush(self) -> None:
        """Send what was encrypted, as far as the kernel takes it."""
        if not self._output:
            return
        try:
            sent = self._sock.send(self._output)
            self._output = self._output[sent:]
            if self.clear_left and sent:
                self.clear_left = max(0, self.clear_left - sent)
                self.since = self._clock()
        except (BlockingIOError, InterruptedError):
            pass
        except BaseException as exc:
            self._clean_up(exc)
            raise

    def _settle(self) -> int:
        # There are always more encrypted bytes than clear ones that they stand for.
        sent = max(0, self._accepted - len(self._output))
        self._accepted -= sent
        return sent

    def _put_output(self) -> None:
        self._output = b"".join((self._output, self._outgoing.read()))
        try:
            self.flush()
        except OSError:
            pass  # the next call that needs the socket tells it
        if self._output:
            self.unusual = True
            if self.established and len(self._output) > _MOST_OUTPUT and self._end is None:
                self._end = TLSError("the peer takes none of the answers that TLS has for it")

    def look_again(self) -> None:
        """Find out whether it is as usual again."""
        waiting = self.has_more() or self._output or self._accepted or self.stalled
        self.unusual = bool(waiting) or not self.established

    # Ending, and what else a socket has

    def end(self) -> bool:
        """Send our close_notify; return whether the kernel has it, and all that was encrypted before.

        In the handshake there is none to send: OpenSSL refuses. Once the cipher is chosen, the peer may have
        all it needs to be done with its side, and would take an end without it for a truncation. Then False
        is returned until ours is done too.
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
        """Return whether the handshake is under way, and the peer's side of it may be done."""
        return not self.established and self.ssl.cipher() is not None

    def close(self) -> None:
        """Close the socket, without a word to the peer."""
        self.detach().close()

    def detach(self) -> socket.socket:
        """Return the socket under it, which is not used from here any more."""
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
        """The socket under it."""
        return self._sock


#: What `Connection.get_extra_info` tells of TLS, by name.
TLS_FACTS: dict[str, Callable[[SecureSocket], Any]] = {
    "ssl_object": lambda sock: sock.ssl,
    "sslcontext": lambda sock: sock.ssl.context,
    "cipher": lambda sock: sock.ssl.cipher(),
    "alpn_protocol": lambda sock: sock.ssl.selected_alpn_protocol(),
    "peercert": lambda sock: sock.ssl.getpeercert(),
    "sni": lambda sock: sock.sni,
}


def bare(sock: Any) -> socket.socket:
    """Return the socket of the kernel, be it secured or not."""
    return sock.bare if isinstance(sock, SecureSocket) else sock


# What OpenSSL says of a peer that does not speak TLS, and what is said here.
_NOT_TLS = {
    "WRONG_VERSION_NUMBER": "what the peer sends is not TLS",
    "PACKET_LENGTH_TOO_LONG": "what the peer sends is not TLS",
    "UNEXPECTED_MESSAGE": "the peer does not speak TLS, or not in turn: unexpected message",
    "HTTP_REQUEST": "the peer speaks HTTP without TLS",
    "HTTPS_PROXY_REQUEST": "the peer speaks to a proxy, without TLS",
}

# OpenSSL has no answer for it: a fatal alert, unexpected_message (RFC 8446, 6.2), as a first record.
_UNEXPECTED_MESSAGE = bytes.fromhex("15 0301 0002 020a")


def _truncated() -> TLSTruncated:
    return TLSTruncated("the peer ended the connection without a close_notify")


def words_of(exc: ssl.SSLError) -> str:
    """Return what OpenSSL says, in words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {exc.verify_message}"
    reason = exc.reason or str(exc)
    return _NOT_TLS.get(reason, reason.replace("_", " ").lower())
