"""Debug mode: a connection that logs warnings for wrong calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from reactor.connection.buffers import FilePart
from reactor.connection.connection import Connection
from reactor.loop.log import caller, checked, logger

__all__ = ["DebugConnection"]


_checked = partial(checked, loop_of=attrgetter("_settings.loop"))


class DebugConnection(Connection):
    """A connection that checks each call's thread, and logs a warning for a write after its end."""

    __slots__ = ()

    write = _checked(Connection.write)
    writelines = _checked(Connection.writelines)
    sendfile = _checked(Connection.sendfile)
    start_tls = _checked(Connection.start_tls)
    write_eof = _checked(Connection.write_eof)
    close = _checked(Connection.close)
    abort = _checked(Connection.abort)
    pause_reading = _checked(Connection.pause_reading)
    resume_reading = _checked(Connection.resume_reading)
    set_protocol = _checked(Connection.set_protocol)
    set_timeouts = _checked(Connection.set_timeouts)

    def _add(self, pieces: Sequence[bytes | FilePart]) -> bool:
        counters = self._settings.loop.counters
        before = counters.dropped_writes
        accepted = super()._add(pieces)
        if counters.dropped_writes != before:
            nbytes = sum(map(len, pieces))
            logger().warning("%d bytes written to %s after its end, at %s", nbytes, self, caller())
        return accepted
