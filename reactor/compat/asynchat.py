"""`asynchat`, which Python 3.12 removed: `import reactor.compat.asynchat as asynchat` is the whole migration.

Every name of the standard module is here, and `fifo`, which it had until Python 3.9. Input is searched in
linear time: the buffer is not copied for each line that is found in it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Self

from reactor.compat import asyncore
from reactor.compat.poller import IN, OUT, PRI, Map

__all__ = ["async_chat", "fifo", "find_prefix_at_end", "simple_producer"]


class async_chat(asyncore.dispatcher):
    r"""A dispatcher for commands and responses: input up to a terminator, output by a queue of producers.

    Subclasses define `collect_incoming_data` and `found_terminator`, and call `set_terminator`.

        import socket
        from reactor.compat import asynchat, asyncore

        class Shout(asynchat.async_chat):
            def __init__(self, sock):
                super().__init__(sock)
                self.set_terminator(b"\r\n")

            def collect_incoming_data(self, data):
                self._collect_incoming_data(data)

            def found_terminator(self):
                self.push(self._get_data().upper() + b"\r\n")

        ours, theirs = socket.socketpair()
        Shout(ours)
        theirs.send(b"hello\r\n")
        asyncore.poll()
        assert theirs.recv(100) == b"HELLO\r\n"
        theirs.close()
        asyncore.loop()
    """

    #: Bytes: the limits of one receive, and of one send.
    ac_in_buffer_size = 65536
    ac_out_buffer_size = 65536

    #: Whether terminators and producers may be str.
    use_encoding: Any = 0
    encoding = "latin-1"

    terminator: Any

    _reactor_fifo: Any = ()

    def __init__(self, sock: Any = None, map: Map | None = None) -> None:
        self.incoming: list[Any] = []
        self._reactor_input: Any = b""
        self._reactor_taken = 0  # what is before it was taken
        self.producer_fifo = _Fifo().owned_by(self)
        super().__init__(sock, map)

    # Input

    @property
    def ac_in_buffer(self) -> Any:
        """Received bytes that are neither collected nor a terminator."""
        if self._reactor_taken:
            self._reactor_input, self._reactor_taken = self._reactor_input[self._reactor_taken :], 0
        return self._reactor_input

    @ac_in_buffer.setter
    def ac_in_buffer(self, data: Any) -> None:
        self._reactor_input, self._reactor_taken = data, 0

    def collect_incoming_data(self, data: bytes) -> None:
        """Take a piece of input. Subclasses override it."""
        raise NotImplementedError(f"{type(self).__name__} needs a method collect_incoming_data")

    def _collect_incoming_data(self, data: bytes) -> None:
        """Keep the piece for `_get_data`: `collect_incoming_data` may be this."""
        self.incoming.append(data)

    def _get_data(self) -> bytes:
        """Return what was kept, and forget it."""
        data = b"".join(self.incoming)
        del self.incoming[:]
        return data

    def found_terminator(self) -> None:
        """Handle what was collected: the terminator has come. Subclasses override it."""
        raise NotImplementedError(f"{type(self).__name__} needs a method found_terminator")

    def set_terminator(self, term: Any) -> None:
        """Set what ends the input that is collected.

        term: bytes; or a number of bytes, which counts down in `terminator`; or None or another false value,
        to collect everything. With `use_encoding` also a str. Raises ValueError for a number below 0.
        """
        if isinstance(term, str) and self.use_encoding:
            term = term.encode(self.encoding)
        elif isinstance(term, int) and term < 0:
            raise ValueError("the number of received bytes must be positive")
        self.terminator = term

    def get_terminator(self) -> Any:
        """Return the terminator; if that is a number, how many bytes are missing yet."""
        return self.terminator

    def handle_read(self) -> None:
        """Receive, collect what came, and call `found_terminator` for each terminator in it."""
        try:
            data = self.recv(self.ac_in_buffer_size)
        except BlockingIOError:
            return
        except OSError:
            self.handle_error()
            return
        if isinstance(data, str) and self.use_encoding:
            data = data.encode(self.encoding)
        self.ac_in_buffer = self.ac_in_buffer + data
        while self._reactor_taken < len(self._reactor_input):
            terminator = self.get_terminator()
            if not terminator:
                self._collect_all()
            elif isinstance(terminator, int):
                self._count_down(terminator)
            elif not self._search(terminator):
                break

    def _collect_all(self) -> None:
        self.collect_incoming_data(self.ac_in_buffer)
        self.ac_in_buffer = b""

    def _count_down(self, number: int) -> None:
        start = self._reactor_taken
        have = len(self._reactor_input) - start
        if have < number:
            self._collect_all()
            self.terminator = self.terminator - have
        else:
            self.collect_incoming_data(self._reactor_input[start : start + number])
            self._reactor_taken += number  # not set: who reads `ac_in_buffer` meanwhile has it cut
            self.terminator = 0
            self.found_terminator()

    def _search(self, terminator: Any) -> bool:
        """Collect what is before the terminator; return whether the rest is to be looked at."""
        start, data = self._reactor_taken, self._reactor_input
        found = data.find(terminator, start)
        if found >= 0:
            if found > start:
                self.collect_incoming_data(data[start:found])
            self._reactor_taken += found - start + len(terminator)
            self.found_terminator()
            return True
        end = len(data)
        held = find_prefix_at_end(data[max(start, end - len(terminator)) :], terminator)
        if not held:
            self._collect_all()
        elif start < end - held:
            self.collect_incoming_data(data[start : end - held])
            self.ac_in_buffer = self.ac_in_buffer[-held:]
        return not held

    # Output

    def _set_producer_fifo(self, producers: Any) -> None:
        self._reactor_fifo = producers
        self._reactor_announce_anew()

    #: A deque of what is to be sent: bytes, producers, and None to close.
    producer_fifo = property(attrgetter("_reactor_fifo"), _set_producer_fifo)

    def handle_write(self) -> None:
        """Call `initiate_send`."""
        self.initiate_send()

    def handle_close(self) -> None:
        """Close."""
        self.close()

    def push(self, data: Any) -> None:
        """Queue bytes, in pieces of `ac_out_buffer_size`, and call `initiate_send`.

        Raises TypeError for what is neither bytes, bytearray nor memoryview.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, bytearray or a memoryview, not {type(data).__name__}")
        size = self.ac_out_buffer_size
        if len(data) > size:
            for start in range(0, len(data), size):
                self.producer_fifo.append(data[start : start + size])
        else:
            self.producer_fifo.append(data)
        self.initiate_send()

    def push_with_producer(self, producer: Any) -> None:
        """Queue an object whose `more()` returns the next bytes, none at its end; call `initiate_send`."""
        self.producer_fifo.append(producer)
        self.initiate_send()

    @asyncore.announced
    def readable(self) -> Any:
        """Return whether read events are wanted: always."""
        return 1

    @asyncore.announced
    def writable(self) -> Any:
        """Return whether there is something to send, or it is to be connected."""
        return self.producer_fifo or (not self.connected)

    def _reactor_interest(self) -> Callable[[Any], int] | None:
        if self._reactor_asks_only(async_chat) and type(self._reactor_fifo) is _Fifo:
            return _interest
        return None

    def close_when_done(self) -> None:
        """Close when all that is queued now has been sent."""
        self.producer_fifo.append(None)

    def initiate_send(self) -> None:
        """Make one send of what is queued first; at None, call `handle_close`."""
        while self.producer_fifo and self.connected:
            first = self.producer_fifo[0]
            if not first:
                del self.producer_fifo[0]
                if first is None:
                    self.handle_close()
                    return
            size = self.ac_out_buffer_size
            try:
                data = first[:size]
            except TypeError:
                self._ask_producer(first)
                continue
            if isinstance(data, str) and self.use_encoding:
                data = data.encode(self.encoding)
            self._send_first(first, data, size)
            return

    def _ask_producer(self, producer: Any) -> None:
        data = producer.more()
        if data:
            self.producer_fifo.appendleft(data)
        else:
            del self.producer_fifo[0]

    def _send_first(self, first: Any, data: Any, size: int) -> None:
        try:
            sent = self.send(data)
        except OSError:
            self.handle_error()
            return
        if not sent:
            return
        if sent < len(data) or size < len(first):
            self.producer_fifo[0] = first[sent:]
        else:
            del self.producer_fifo[0]

    def discard_buffers(self) -> None:
        """Drop what was received and what is queued."""
        self.ac_in_buffer = b""
        del self.incoming[:]
        self.producer_fifo.clear()


def _interest(obj: Any) -> int:
    if obj.accepting or (obj.connected and not obj._reactor_fifo):
        return IN | PRI
    return IN | OUT | PRI


class _Fifo(deque[Any]):
    """The deque of an `async_chat`; it announces that it has grown, which changes what `writable` returns."""

    __slots__ = ("_owner",)

    def __init__(self, iterable: Iterable[Any] = (), maxlen: int | None = None) -> None:
        super().__init__(iterable, maxlen)
        self._owner: weakref.ref[async_chat] | None = None

    def owned_by(self, owner: async_chat) -> Self:
        """Announce to this one, and return itself."""
        self._owner = weakref.ref(owner)  # no circle: a channel that is dropped goes at once
        return self

    def _announce(self) -> None:
        owner = None if self._owner is None else self._owner()
        if owner is not None:
            owner._reactor_announce()

    def append(self, item: Any, /) -> None:
        """As `deque.append`."""
        super().append(item)
        self._announce()

    def appendleft(self, item: Any, /) -> None:
        """As `deque.appendleft`."""
        super().appendleft(item)
        self._announce()

    def extend(self, items: Iterable[Any], /) -> None:
        """As `deque.extend`."""
        super().extend(items)
        self._announce()

    def extendleft(self, items: Iterable[Any], /) -> None:
        """As `deque.extendleft`."""
        super().extendleft(items)
        self._announce()

    def insert(self, index: int, item: Any, /) -> None:
        """As `deque.insert`."""
        super().insert(index, item)
        self._announce()

    def __iadd__(self, items: Iterable[Any], /) -> Self:
        self.extend(items)
        return self


class simple_producer:
    r"""A producer of `data`, in pieces of up to `buffer_size` bytes.

    >>> producer = simple_producer(b"hello world", buffer_size=6)
    >>> producer.more(), producer.more(), producer.more()
    (b'hello ', b'world', b'')
    """

    def __init__(self, data: Any, buffer_size: int = 512) -> None:
        self.data = data
        self.buffer_size = buffer_size

    def more(self) -> Any:
        """Return the next piece; an empty one at the end."""
        piece = self.data[: self.buffer_size]
        self.data = self.data[self.buffer_size :]
        return piece


class fifo:
    """A queue of first in, first out, for programs written for Python before 3.9. list: its first items.

    >>> queue = fifo(["a"])
    >>> queue.push("b")
    >>> queue.first(), len(queue), queue.pop(), queue.pop(), queue.pop(), queue.is_empty()
    ('a', 2, (1, 'a'), (1, 'b'), (0, None), True)
    """

    def __init__(self, list: Iterable[Any] | None = None) -> None:
        self.list = deque(list or ())

    def __len__(self) -> int:
        return len(self.list)

    def is_empty(self) -> bool:
        """Return whether there is no item."""
        return not self.list

    def first(self) -> Any:
        """Return the first item. Raises IndexError if there is none."""
        return self.list[0]

    def push(self, data: Any) -> None:
        """Add an item."""
        self.list.append(data)

    def pop(self) -> tuple[int, Any]:
        """Remove the first item; return 1 and the item, or 0 and None if there is none."""
        return (1, self.list.popleft()) if self.list else (0, None)


def find_prefix_at_end(haystack: Any, needle: Any) -> int:
    r"""Return the length of the longest beginning of `needle`, not all of it, that `haystack` ends with.

    >>> find_prefix_at_end(b"hello\r", b"\r\n")
    1
    """
    return next((size for size in range(len(needle) - 1, 0, -1) if haystack.endswith(needle[:size])), 0)
