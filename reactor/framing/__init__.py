"""Framing: bytes in, frames out, and back; no sockets.

Each kind is a class whose object decodes one direction of one connection. What arrives is cut as the
network likes; `feed` returns the frames that are whole now, and `next_frame` one of them, without touching
what follows it, which may be for another framer. Every byte is looked at and copied a bounded
number of times, however small the pieces, and no more than `limit` bytes and one piece are held.
"""

from reactor.framing.base import Framer
from reactor.framing.delimited import Delimited, Lines
from reactor.framing.fixed import Block, FixedLength
from reactor.framing.prefixed import LengthPrefixed, Netstrings, VarintPrefixed

__all__ = [
    "Block",
    "Delimited",
    "FixedLength",
    "Framer",
    "LengthPrefixed",
    "Lines",
    "Netstrings",
    "VarintPrefixed",
]
