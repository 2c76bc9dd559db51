"""Test doubles for programs that use the reactor: no kernel sockets, no waiting, and faulty peers.

`MemoryReactor` listens and connects in memory, with a clock that the test advances; several reactors share a
`MemoryNetwork`, with names, hosts and partitions; datagrams get lost there, or come twice or in another
order. `FaultyPeer` is a peer that sends slowly, in pieces, resets or never reads, `FaultyDatagramPeer` one of
datagrams; `ScriptedSocket` gives a real socket partial sends and errors; `Recorder` and `DatagramRecorder`
record the calls of a protocol, and `Errors` those of `on_error`. pytest finds the fixtures `reactor`,
`reactor_server`, `datagram_server`, `memory_reactor` and `memory_network` by itself.
"""

from reactor.testing.clock import ManualClock
from reactor.testing.memory import MemoryConnection, MemoryNetwork, MemoryReactor
from reactor.testing.peers import FaultyDatagramPeer, FaultyPeer
from reactor.testing.records import DatagramRecorder, Errors, Recorder
from reactor.testing.scripted import ScriptedSocket

__all__ = [
    "DatagramRecorder",
    "Errors",
    "FaultyDatagramPeer",
    "FaultyPeer",
    "ManualClock",
    "MemoryConnection",
    "MemoryNetwork",
    "MemoryReactor",
    "Recorder",
    "ScriptedSocket",
]
