"""Test doubles for programs that use the reactor: no kernel sockets, no waiting, and faulty peers.

`MemoryReactor` listens and connects in memory, with a clock that the test advances; several reactors share a
`MemoryNetwork`, with names, hosts and partitions. `FaultyPeer` is a peer that sends slowly, in pieces, resets
or never reads; `ScriptedSocket` gives a real socket partial sends and errors; `Recorder` records the calls of
a protocol, and `Errors` those of `on_error`. pytest finds the fixtures `reactor`, `reactor_server`,
`memory_reactor` and `memory_network` by itself.
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
