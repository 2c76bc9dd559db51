"""Sans-I/O framing: decodes a stream of bytes into frames, and encodes frames into bytes.

Each framing is a class, and each instance decodes one direction of one connection. `feed` takes received
bytes, cut in any way, and returns the frames that are complete then; `next_frame` returns one of them and
leaves the bytes after it, which may be for another framer. Every byte is looked at and copied a bounded
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
