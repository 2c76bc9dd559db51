"""For the tests of programs that use the reactor: no sockets, no waiting, and peers that misbehave.

`MemoryReactor` listens and connects in memory, and has a clock that goes when it is told to; several live on
one `MemoryNetwork`, with names, hosts and partitions. `FaultyPeer` is the other end that delays, dribbles,
resets or never reads; `ScriptedSocket` gives a real socket partial sends and errors; `Recorder` and `Errors`
keep what they are told. pytest finds the fixtures `reactor`,
`reactor_server`, `memory_reactor` and `memory_network` by itself.
"""

from reactor.testing.clock import ManualClock
from reactor.testing.memory import MemoryConnection, MemoryNetwork, MemoryReactor
from reactor.testing.peers import FaultyPeer
from reactor.testing.records import Errors, Recorder
from reactor.testing.scripted import ScriptedSocket

__all__ = [
    "Errors",
    "FaultyPeer",
    "ManualClock",
    "MemoryConnection",
    "MemoryNetwork",
    "MemoryReactor",
    "Recorder",
    "ScriptedSocket",
]
