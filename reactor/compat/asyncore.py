"""`asyncore`, which Python 3.12 removed: `import reactor.compat.asyncore as asyncore` is the whole migration.

Every name of the standard module is here, and what was documented, or relied upon, holds: the order of the
phases of a pass, the exceptions that leave a loop, private maps, and calls of a program's own `readable` and
`writable` (its predicates) in every pass. What differs:

- There is no limit of 1,024 descriptors, and dispatchers whose `readable` and `writable` are the ones of this
  module cost nothing while nothing happens to them.
- Connected dispatchers without a `handle_write` are always writable to the standard module, so that its loop
  never waits. Here it waits; where a program could notice it (a `count`, `poll`, overridden predicates), for
  at most a millisecond.
- If a callback of a pass closes a descriptor, a later event of it in the same pass is dropped; the standard
  module reports it to the dispatcher that has the number by then.
- `poll` calls `handle_close` for a closed descriptor, as `poll2` does; the standard one leaves its loop.
- `attach` puts a map on a `Reactor`.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import warnings
from collections.abc import Callable
from errno import (
    EAGAIN,
    EALREADY,
    EBADF,
    ECONNABORTED,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENOTCONN,
    EPIPE,
    ESHUTDOWN,
    EWOULDBLOCK,
    errorcode,
)
from operator import attrgetter
from types import MethodType, TracebackType
from typing import Any, NoReturn, Self, TypeVar, cast

from reactor.compat.poller import (
    BUSY,
    ERR,
    HUP,
    IN,
    NVAL,
    OUT,
    PRI,
    Channel,
    Map,
    Poller,
    Ready,
    SocketMap,
    poller_of,
)
from reactor.loop.context import ContextExit
from reactor.loop.timers import Handle, TimerHandle
from reactor.options import seconds
from reactor.reactor import Reactor

__all__ = [
    "Attachment",
    "ExitNow",
    "attach",
    "close_all",
    "compact_traceback",
    "dispatcher",
    "dispatcher_with_send",
    "loop",
    "poll",
    "poll2",
    "poll3",
    "read",
    "readwrite",
    "socket_map",
    "write",
]

F = TypeVar("F", bound=Callable[..., Any])

_DISCONNECTED = frozenset({ECONNRESET, ENOTCONN, ESHUTDOWN, ECONNABORTED, EPIPE, EBADF})

# The limit of events that a map on a reactor handles in one go, as the reactor's own ticks have it.
_EVENTS_PER_TICK = 64

_SEND_SIZE = 65536

# `mypy` and others take it for select's, which some platforms lack.
_POLL = hasattr(select, "poll")


class ExitNow(Exception):
    """Raised by a handler to leave `loop`, which passes it on."""


_reraised_exceptions = (ExitNow, KeyboardInterrupt, SystemExit)


# Events


def read(obj: Any) -> None:
    """Report a read event to `obj`; what it raises goes to its `handle_error`."""
    try:
        obj.handle_read_event()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


def write(obj: Any) -> None:
    """Report a write event to `obj`; what it raises goes to its `handle_error`."""
    try:
        obj.handle_write_event()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


def _exception(obj: Any) -> None:
    """Report urgent data or an error to `obj`; what it raises goes to its `handle_error`."""
    try:
        obj.handle_expt_event()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


def readwrite(obj: Any, flags: int) -> None:
    """Report the events of poll(2) in `flags` to `obj`: read, write, urgent, and the end.

    An OSError that says that the peer is gone goes to its `handle_close`, what else it raises to its
    `handle_error`.
    """
    try:
        if flags & IN:
            obj.handle_read_event()
            if flags == IN:
                return
        if flags & OUT:
            obj.handle_write_event()
        if flags & PRI:
            obj.handle_expt_event()
        if flags & (HUP | ERR | NVAL):
            obj.handle_close()
    except _reraised_exceptions:
        raise
    except OSError as exc:
        if exc.errno in _DISCONNECTED:
            obj.handle_close()
        else:
            obj.handle_error()
    except BaseException:
        obj.handle_error()


# Passes

#: Reports events to the objects of a poller, in some order.
Report = Callable[[Poller, list[Ready]], None]


def _report_by_phase(poller: Poller, ready: list[Ready]) -> None:
    """Report all reads, then all writes, then what is urgent."""
    reads: list[Channel] = []
    writes: list[Channel] = []
    urgent: list[Channel] = []
    for _, flags, channel in ready:
        mask = channel.mask
        reading = mask & IN and flags & (IN | HUP | ERR)
        writing = mask & OUT and flags & (OUT | ERR)
        if reading:
            reads.append(channel)
        if writing:
            writes.append(channel)
        if flags & PRI:
            urgent.append(channel)
        elif not (reading or writing):
            _report_else(poller, channel, flags)
            continue
        if channel.edge:
            poller.heed(channel)
    get = poller.map.get
    for channels, report in (reads, read), (writes, write), (urgent, _exception):
        for channel in channels:
            obj = get(channel.fd)
            if obj is not None and not channel.gone:
                report(obj)


def _report_else(poller: Poller, channel: Channel, flags: int) -> None:
    """Report a closed descriptor, or see that a hang-up for which nobody has asked is not reported again."""
    if flags & NVAL:
        readwrite(channel.obj, NVAL)
    else:
        poller.hush(channel)


def _report_by_object(poller: Poller, ready: list[Ready]) -> None:
    """Report all events of one descriptor, then those of the next."""
    get = poller.map.get
    for _, flags, channel in ready:
        if flags != IN:
            mask = channel.mask
            if not mask & (IN | OUT) or not (flags & ~PRI or mask & IN):
                poller.hush(channel)
                continue
            if not mask & IN:
                flags &= ~PRI  # noqa: PLW2901 - it is watched for, but was not asked for
            if channel.edge:
                poller.heed(channel)
        obj = get(channel.fd)
        if obj is not None and not channel.gone:
            readwrite(obj, flags)


def poll(timeout: float | None = 0.0, map: Map | None = None) -> None:
    """Make one pass: wait until something is ready, then report all reads, all writes, and what is urgent.

    timeout: seconds to wait; None: for ever. map: None for `socket_map`. With an empty map it returns at
    once. Raises ValueError for a timeout below 0.
    """
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must be 0 seconds or more, or None to wait for ever")
    map = socket_map if map is None else map
    if map:
        poller = poller_of(map, _steady_interest)
        _report_by_phase(poller, poller.ready(timeout))


def poll2(timeout: float | None = 0.0, map: Map | None = None) -> None:
    """As `poll`, but the events of each descriptor are reported together, a hang-up as `handle_close`.

    timeout: seconds, in steps of a millisecond; None or below 0: for ever.
    """
    map = socket_map if map is None else map
    if map:
        poller = poller_of(map, _steady_interest)
        _report_by_object(poller, poller.ready(_in_milliseconds(timeout)))


poll3 = poll2


def _in_milliseconds(timeout: float | None) -> float | None:
    if timeout is None or timeout < 0:
        return None
    return int(timeout * 1000) / 1000


def loop(
    timeout: float | None = 30.0, use_poll: bool = False, map: Map | None = None, count: int | None = None
) -> None:
    """Make passes until the map is empty.

    timeout: seconds that one pass waits at most; None: for ever. use_poll: make them as `poll2` does, and
        not as `poll`. map: None for `socket_map`. count: the limit of passes; None for none.
    ExitNow, KeyboardInterrupt and SystemExit of a handler, and every exception of a predicate, leave the
    loop. Call it on any thread; one map is for one thread at a time.
    """
    map = socket_map if map is None else map
    report = _report_by_object if use_poll and _POLL else _report_by_phase
    if use_poll:
        timeout = _in_milliseconds(timeout)
    elif timeout is not None and timeout < 0:
        raise ValueError("timeout must be 0 seconds or more, or None to wait for ever")
    poller = poller_of(map, _steady_interest)  # held: objects that are no dispatchers do not keep it
    if count is None:
        while map:
            report(poller, poller.ready(timeout, seen=False))
    else:
        while map and count > 0:
            report(poller, poller.ready(timeout))
            count -= 1


# Dispatchers


def _steady_interest(poller: Poller, fd: int, obj: Any) -> Callable[[Any], int] | None:
    """Return how to get the interest of `obj`; None if it is to be asked in every pass."""
    if isinstance(obj, dispatcher) and obj._reactor_poller is poller and obj._fileno == fd:
        return obj._reactor_interest()
    return None


class _Announced:
    """A method that an object may have of its own: setting it announces that the answers may change."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._name = function.__name__

    def __get__(self, obj: Any, kind: type | None = None) -> Any:
        if obj is None:
            return self._function
        return obj.__dict__.get(self._name) or MethodType(self._function, obj)

    def __set__(self, obj: Any, method: Any) -> None:
        obj.__dict__[self._name] = method
        obj._reactor_announce_anew()

    def __delete__(self, obj: Any) -> None:
        try:
            del obj.__dict__[self._name]
        except KeyError:
            raise AttributeError(self._name) from None
        obj._reactor_announce_anew()


def announced(function: F) -> F:
    """Decorate a method of dispatchers on which their interest depends."""
    return cast("F", _Announced(function))


class dispatcher:
    """A socket whose events are calls of its methods; to be subclassed.

    sock: a connected or listening socket, which is set to not block; None: `create_socket` makes one.
    map: the map that it is in; None for `socket_map`. It is added by this and `create_socket`, and leaves it
        in `close`.
    Raises OSError if the socket is broken.

        import socket
        from reactor.compat import asyncore

        class Shout(asyncore.dispatcher):
            def handle_read(self):
                self.send(self.recv(8192).upper())

            def handle_close(self):
                self.close()

        ours, theirs = socket.socketpair()
        Shout(ours)
        theirs.send(b"hello")
        theirs.shutdown(socket.SHUT_WR)
        asyncore.loop()  # until the map is empty
        assert theirs.recv(100) == b"HELLO"
        theirs.close()
    """

    debug = False
    connected = False
    accepting = False
    connecting = False
    closing = False
    addr: Any = None
    ignore_log_types: Any = frozenset({"warning"})

    socket: Any
    family_and_type: tuple[int, int]
    _map: Map
    _fileno: Any = None
    _reactor_poller: Poller | None = None

    def __init__(self, sock: Any = None, map: Map | None = None) -> None:
        self._map = socket_map if map is None else map
        self._fileno = None
        self.socket = None
        if sock:
            sock.setblocking(False)
            self.set_socket(sock, map)
            self.connected = True
            self._find_peer(sock, map)

    def _find_peer(self, sock: Any, map: Map | None) -> None:
        try:
            self.addr = sock.getpeername()
        except OSError as exc:
            if exc.errno not in (ENOTCONN, EINVAL):
                self.del_channel(map)
                raise
            self.connected = False

    def __repr__(self) -> str:
        words = [f"{type(self).__module__}.{type(self).__qualname__}"]
        if self.accepting and self.addr:
            words.append("listening")
        elif self.connected:
            words.append("connected")
        if self.addr is not None:
            try:
                words.append("%s:%d" % self.addr)  # noqa: UP031 - it need not be a pair
            except TypeError:
                words.append(repr(self.addr))
        return f"<{' '.join(words)} at {id(self):#x}>"

    # The map

    def add_channel(self, map: Map | None = None) -> None:
        """Put it in a map; None: its own."""
        map = self._map if map is None else map
        self._reactor_poller = poller_of(map, _steady_interest)
        map[self._fileno] = self
        if type(map) is not SocketMap:
            self._reactor_poller.added(self._fileno)

    def del_channel(self, map: Map | None = None) -> None:
        """Take it out of a map; None: its own. For good: it has no descriptor afterwards."""
        map = self._map if map is None else map
        fd = self._fileno
        if fd in map:
            del map[fd]
            if type(map) is not SocketMap:
                poller_of(map, _steady_interest).removed(fd)
        self._fileno = None

    def create_socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> None:
        """Make a socket that does not block, and put it in the map."""
        self.family_and_type = family, type
        sock = socket.socket(family, type)
        sock.setblocking(False)
        self.set_socket(sock)

    def set_socket(self, sock: Any, map: Map | None = None) -> None:
        """Make `sock` its socket, and put it in a map; None: its own."""
        self.socket = sock
        self._fileno = sock.fileno()
        self.add_channel(map)

    def set_reuse_addr(self) -> None:
        """Set SO_REUSEADDR, where the socket has it."""
        try:
            before = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, before | 1)
        except OSError:
            pass  # it is a wish

    # Predicates

    @announced
    def readable(self) -> Any:
        """Return whether read events are wanted. Called in every pass if it is overridden."""
        return True

    @announced
    def writable(self) -> Any:
        """Return whether write events are wanted. Called in every pass if it is overridden."""
        return True

    def _reactor_interest(self) -> Callable[[Any], int] | None:
        """Return what gets its interest; None if its predicates are to be asked."""
        if not self._reactor_asks_only(dispatcher):
            return None
        return _interest_in_all if self._reactor_handles_writes() else _interest_in_input

    def _reactor_asks_only(self, base: type[dispatcher]) -> bool:
        """Return whether `readable` and `writable` are those of `base`."""
        kind, own = type(self), self.__dict__
        return (
            kind.writable is base.writable
            and kind.readable is base.readable
            and "writable" not in own
            and "readable" not in own
        )

    def _reactor_handles_writes(self) -> bool:
        """Return whether a write event of a connected socket has any effect."""
        kind, own = type(self), self.__dict__
        return not (
            kind.handle_write is dispatcher.handle_write
            and kind.handle_write_event is dispatcher.handle_write_event
            and kind.log_info is dispatcher.log_info
            and own.keys().isdisjoint(_ON_WRITE)
            and "warning" in self.ignore_log_types
        )

    def _reactor_announce(self) -> None:
        """Make the poller get the interest again."""
        if self._reactor_poller is not None and self._fileno is not None:
            self._reactor_poller.announce(self._fileno)

    def _reactor_announce_anew(self) -> None:
        """Make the poller find out again how to get the interest."""
        if self._reactor_poller is not None and self._fileno is not None:
            self._reactor_poller.announce_anew(self._fileno)

    # The socket

    def listen(self, num: int) -> None:
        """Accept connections; num: the limit of those that wait."""
        self.accepting = True
        self._reactor_announce()
        self.socket.listen(num)

    def bind(self, addr: Any) -> None:
        """Bind the socket to an address of its family."""
        self.addr = addr
        self.socket.bind(addr)

    def connect(self, address: Any) -> None:
        """Begin to connect; `handle_connect` is called when it is done. Raises OSError if it can't be."""
        self.connected = False
        self.connecting = True
        self._reactor_announce()
        error = self.socket.connect_ex(address)
        if error in (EINPROGRESS, EALREADY, EWOULDBLOCK) or (error == EINVAL and os.name == "nt"):
            self.addr = address
        elif error in (0, EISCONN):
            self.addr = address
            self.handle_connect_event()
        else:
            raise OSError(error, errorcode[error])

    def accept(self) -> tuple[Any, Any] | None:
        """Return an accepted socket and its peer's address, or None if there is none any more."""
        try:
            sock, addr = self.socket.accept()
        except TypeError:
            return None
        except OSError as exc:
            if exc.errno in (EWOULDBLOCK, ECONNABORTED, EAGAIN):
                return None
            raise
        return sock, addr

    def send(self, data: Any) -> Any:
        """Send what the kernel takes of `data`, and return the number of bytes."""
        try:
            return self.socket.send(data)
        except OSError as exc:
            if exc.errno == EWOULDBLOCK:
                return 0
            if exc.errno not in _DISCONNECTED:
                raise
        self.handle_close()
        return 0

    def recv(self, buffer_size: int) -> Any:
        """Return up to `buffer_size` bytes; at the peer's end of file call `handle_close`, and return b""."""
        try:
            data = self.socket.recv(buffer_size)
        except OSError as exc:
            if exc.errno not in _DISCONNECTED:
                raise
        else:
            if data:
                return data
        self.handle_close()
        return b""

    def close(self) -> None:
        """Leave the map, and close the socket."""
        self.connected = False
        self.accepting = False
        self.connecting = False
        self.del_channel()
        if self.socket is not None:
            try:
                self.socket.close()
            except OSError as exc:
                if exc.errno not in (ENOTCONN, EBADF):
                    raise

    # Logging

    def log(self, message: object) -> None:
        """Write a line to standard error."""
        sys.stderr.write(f"log: {message}\n")

    @announced
    def log_info(self, message: object, type: str = "info") -> None:
        """Print a line, unless its type is in `ignore_log_types`."""
        if type not in self.ignore_log_types:
            print(f"{type}: {message}")  # noqa: T201 - the standard module does, and programs override it

    # Events

    def handle_read_event(self) -> None:
        """Call `handle_accept`, or `handle_read`, after `handle_connect` if it was connecting."""
        if self.accepting:
            self.handle_accept()
            return
        if not self.connected and self.connecting:
            self.handle_connect_event()
        self.handle_read()

    def handle_connect_event(self) -> None:
        """Call `handle_connect`. Raises OSError if connecting has failed."""
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, _strerror(error))
        self.handle_connect()
        self.connected = True
        self.connecting = False
        self._reactor_announce()

    @announced
    def handle_write_event(self) -> None:
        """Call `handle_write`, after `handle_connect` if it was connecting."""
        if self.accepting:
            return
        if not self.connected and self.connecting:
            self.handle_connect_event()
        self.handle_write()

    def handle_expt_event(self) -> None:
        """Call `handle_close` if the socket has an error, else `handle_expt`."""
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.handle_close()
        else:
            self.handle_expt()

    # Handlers, which subclasses override

    def handle_error(self) -> None:
        """Log the exception that was raised, and call `handle_close`."""
        _, kind, value, trace = compact_traceback()
        try:
            name = repr(self)
        except BaseException:
            name = f"<__repr__(self) failed for object at {id(self):0x}>"
        self.log_info(
            f"uncaptured python exception, closing channel {name} ({kind}:{value} {trace})", "error"
        )
        self.handle_close()

    def handle_expt(self) -> None:
        """Log that urgent data has come."""
        self.log_info("unhandled incoming priority event", "warning")

    def handle_read(self) -> None:
        """Log that it is readable."""
        self.log_info("unhandled read event", "warning")

    @announced
    def handle_write(self) -> None:
        """Log that it is writable."""
        self.log_info("unhandled write event", "warning")

    def handle_connect(self) -> None:
        """Log that it is connected; `connected` is set afterwards."""
        self.log_info("unhandled connect event", "warning")

    def handle_accept(self) -> None:
        """Accept a connection and call `handle_accepted`."""
        accepted = self.accept()
        if accepted is not None:
            self.handle_accepted(*accepted)

    def handle_accepted(self, sock: Any, addr: Any) -> None:
        """Close the accepted socket, and log it."""
        sock.close()
        self.log_info("unhandled accepted event", "warning")

    def handle_close(self) -> None:
        """Log that the peer is gone, and close."""
        self.log_info("unhandled close event", "warning")
        self.close()


def _interest_in_all(obj: Any) -> int:
    return IN | PRI if obj.accepting else IN | OUT | PRI


def _interest_in_input(obj: Any) -> int:
    """Return the interest of a dispatcher on which a write event has no effect once it is connected."""
    if obj.accepting:
        return IN | PRI
    if obj.connecting and not obj.connected:
        return IN | OUT | PRI
    return IN | PRI | BUSY


_ON_WRITE = frozenset({"handle_write", "handle_write_event", "log_info"})


class dispatcher_with_send(dispatcher):
    """A dispatcher whose `send` keeps what the kernel does not take in `out_buffer`.

    For example:

        import socket
        from reactor.compat import asyncore

        class Echo(asyncore.dispatcher_with_send):
            def handle_read(self):
                self.send(self.recv(8192))

            def handle_close(self):
                self.close()

        ours, theirs = socket.socketpair()
        Echo(ours)
        theirs.send(b"hello")
        asyncore.poll()
        assert theirs.recv(100) == b"hello"
        theirs.close()
        asyncore.loop()
    """

    _reactor_out: Any = b""

    def __init__(self, sock: Any = None, map: Map | None = None) -> None:
        super().__init__(sock, map)
        self.out_buffer = b""

    def _set_out_buffer(self, data: Any) -> None:
        self._reactor_out = data
        self._reactor_announce()

    #: What is to be sent.
    out_buffer = property(attrgetter("_reactor_out"), _set_out_buffer)

    def initiate_send(self) -> None:
        """Send what the kernel takes of the buffer, up to 64 KiB."""
        sent = dispatcher.send(self, self.out_buffer[:_SEND_SIZE])
        self.out_buffer = self.out_buffer[sent:]

    def handle_write(self) -> None:
        """Call `initiate_send`."""
        self.initiate_send()

    @announced
    def writable(self) -> Any:
        """Return whether it has something to send, or is to be connected."""
        return not self.connected or len(self.out_buffer)

    def _reactor_interest(self) -> Callable[[Any], int] | None:
        if self._reactor_asks_only(dispatcher_with_send):
            return _interest_in_sending
        return super()._reactor_interest()

    def send(self, data: Any) -> None:
        """Queue `data`, and call `initiate_send`."""
        if self.debug:
            self.log_info(f"sending {data!r}")
        self.out_buffer = self.out_buffer + data
        self.initiate_send()


def _interest_in_sending(obj: Any) -> int:
    if obj.accepting or (obj.connected and not len(obj._reactor_out)):
        return IN | PRI
    return IN | OUT | PRI


if os.name == "posix":

    class file_wrapper:
        """A file with the methods of a socket that a dispatcher uses; it has a copy of the descriptor `fd`.

        For example:

            import os
            from reactor.compat import asyncore

            reading, writing = os.pipe()
            wrapper = asyncore.file_wrapper(writing)
            assert wrapper.send(b"hello") == 5
            wrapper.close()
            os.close(reading)
            os.close(writing)
        """

        def __init__(self, fd: int) -> None:
            self.fd = os.dup(fd)

        def __del__(self) -> None:
            if self.fd >= 0:
                warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

        def recv(self, *args: int) -> bytes:
            """Read up to this number of bytes."""
            return os.read(self.fd, *args)

        def send(self, *args: Any) -> int:
            """Write these bytes, and return how many were taken."""
            return os.write(self.fd, *args)

        def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> int:
            """Return 0 for SO_ERROR. Raises NotImplementedError for other options."""
            if (level, optname) == (socket.SOL_SOCKET, socket.SO_ERROR) and not buflen:
                return 0
            raise NotImplementedError("a file has SO_ERROR, which a dispatcher asks for, and no other option")

        read = recv
        write = send

        def close(self) -> None:
            """Close the descriptor. More than once does nothing."""
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

        def fileno(self) -> int:
            """Return the descriptor, or -1."""
            return self.fd

    class file_dispatcher(dispatcher):
        """A dispatcher for a pipe, a terminal or another file.

        fd: a file or its descriptor, which is copied.

            import os
            from reactor.compat import asyncore

            class Reader(asyncore.file_dispatcher):
                def handle_read(self):
                    print(self.recv(8192))

                def handle_close(self):
                    self.close()

            reading, writing = os.pipe()
            Reader(reading)
            os.close(reading)  # it has a copy
            os.write(writing, b"hello")
            os.close(writing)
            asyncore.loop()
        """

        def __init__(self, fd: Any, map: Map | None = None) -> None:
            super().__init__(None, map)
            self.connected = True
            fd = fd.fileno() if hasattr(fd, "fileno") else fd
            self.set_file(fd)
            os.set_blocking(fd, False)

        def set_file(self, fd: int) -> None:
            """Make a copy of the descriptor its file, and put it in the map."""
            self.socket = file_wrapper(fd)
            self._fileno = self.socket.fileno()
            self.add_channel()

    __all__ += ["file_dispatcher", "file_wrapper"]


# Of all dispatchers


def _strerror(error: int) -> str:
    try:
        return os.strerror(error)
    except (ValueError, OverflowError):
        return errorcode.get(error, f"Unknown error {error}")


def compact_traceback() -> tuple[tuple[str, str, str], type[BaseException], BaseException, str]:
    """Return where the exception that is being handled was raised, its type, itself, and the way there.

    The first is file, function and line; the last has them for each call, in brackets.
    Raises AssertionError if there is no exception.
    """
    kind, value, trace = sys.exc_info()
    if kind is None or value is None or trace is None:
        _no_traceback()
    calls = []
    at: TracebackType | None = trace
    while at is not None:
        code = at.tb_frame.f_code
        calls.append((code.co_filename, code.co_name, str(at.tb_lineno)))
        at = at.tb_next
    return calls[-1], kind, value, " ".join(f"[{'|'.join(call)}]" for call in calls)


def _no_traceback() -> NoReturn:
    raise AssertionError("traceback does not exist")


def close_all(map: Map | None = None, ignore_all: bool = False) -> None:
    """Close all objects of a map, and empty it.

    map: None for `socket_map`. ignore_all: go on when one raises something, but for ExitNow,
    KeyboardInterrupt and SystemExit.
    """
    map = socket_map if map is None else map
    for obj in list(map.values()):
        try:
            obj.close()
        except _reraised_exceptions:
            raise
        except BaseException as exc:
            closed = isinstance(exc, OSError) and exc.errno == EBADF
            if not closed and not ignore_all:
                raise
    map.clear()


# On a reactor


class Attachment(ContextExit):
    """A map on a reactor, until `detach`, the end of a `with` block, or the reactor's own end.

    `attach` makes one, and takes the same arguments.

        from reactor import Reactor
        from reactor.compat import asyncore

        with Reactor() as reactor, asyncore.attach(reactor):
            reactor.run_once()
    """

    def __init__(self, reactor: Reactor, map: Map, use_poll: bool, interval: float) -> None:
        self._reactor = reactor
        self._poller = poller_of(map, _steady_interest)
        self._report: Report = _report_by_object if use_poll and _POLL else _report_by_phase
        self._interval = interval
        self._timer: TimerHandle | None = None
        self._handles: list[Handle] = []
        self._poller.hold()
        try:
            reactor.add_reader(self._poller.fileno(), self._pass)
            self._handles = [reactor.call_at_close(self.detach), reactor.call_each_tick(self._ask)]
        except BaseException:
            self._poller.release()
            raise
        self._poller.on_restless = self._wake
        self._poller.on_replaced = self._watch_instead
        self._wake()

    def __enter__(self) -> Self:
        return self

    def _leave_block(self, exc: BaseException | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the map off the reactor. More than once does nothing. On the reactor's thread.

        In a forked child nothing of the reactor's is touched.
        """
        if not self._handles:
            return
        for handle in self._handles:
            handle.cancel()
        self._handles = []
        if self._timer is not None:
            self._timer.cancel()
        fd = self._poller.fileno()
        if self._poller.release():
            self._reactor.remove_reader(fd)

    def _pass(self) -> None:
        poller = self._poller
        try:
            self._report(poller, poller.ready(0, seen=False, asked=True, limit=_EVENTS_PER_TICK))
        except ExitNow:
            self._reactor.stop()
        poller.settle()

    def _ask(self) -> None:
        """Ask what is to be asked, before the reactor waits."""
        poller = self._poller
        if poller.is_restless():
            self._reactor.call_soon(self._pass)
        if poller.is_asking():
            poller.ask()
            if self._timer is None and poller.is_asking():
                self._timer = self._reactor.call_later(self._interval, self._ask_again)

    def _ask_again(self) -> None:
        self._timer = None  # the reactor is about to wait: `_ask` follows

    def _wake(self) -> None:
        self._reactor.call_soon_threadsafe(_do_nothing)

    def _watch_instead(self, before: int) -> None:
        self._reactor.remove_reader(before)
        self._reactor.add_reader(self._poller.fileno(), self._pass)


def _do_nothing() -> None:
    pass


def attach(
    reactor: Reactor, map: Map | None = None, *, use_poll: bool = False, interval: float = 0.01
) -> Attachment:
    """Put a map on a reactor, which then drives its dispatchers beside its protocols.

    map: None for `socket_map`. What is put into a private one directly, and not by a dispatcher, is noticed
        with the next event. use_poll: report events as `loop` does with it.
    interval: seconds. Overridden predicates are called in every tick of the reactor, and at least that
        often. Without them an idle map costs nothing.
    ExitNow from a handler stops the reactor. On the reactor's thread.
    Raises UsageError if the reactor is closed, the map is on one, or the platform has no epoll; ValueError
    for an interval that is not above 0, TypeError for one that is no number.
    """
    map = socket_map if map is None else map
    return Attachment(reactor, map, use_poll, seconds("interval", interval))


#: The map of all dispatchers that have no other: descriptors to objects.
socket_map: Map = SocketMap(_steady_interest)
