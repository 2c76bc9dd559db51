"""For the tests of programs that use the reactor: no sockets, no waiting, and peers that misbehave.

`MemoryReactor` has connections in memory, in pairs, and a clock that goes when it is told to; `FaultyPeer` is
the other end that delays, dribbles, resets or never reads; `Recorder` and `Errors` keep what they are told.
pytest finds the fixtures `reactor` and `reactor_server` by itself.
"""

from reactor.testing.clock import ManualClock
from reactor.testing.memory import MemoryConnection, MemoryReactor
from reactor.testing.peers import FaultyPeer
from reactor.testing.records import Errors, Recorder

__all__ = ["Errors", "FaultyPeer", "ManualClock", "MemoryConnection", "MemoryReactor", "Recorder"]
