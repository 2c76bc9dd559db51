"""The place of a reader in a stream of WebSocket frames, as bytes for a reader in another process.

wsproto does not say where in a frame it is. This module knows, from the attributes of its decoders, and
describes it by bytes after which a new reader is at the same place: the message so far as one fragment, the
rest of the frame as a frame of its own, and the bytes that were not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsproto.connection import Connection
    from wsproto.frame_protocol import Opcode

__all__ = ["encode_frame", "received_by"]

_SHORT, _LONG = Struct("!BBH"), Struct("!BBQ")

# The bits of the first two bytes: the last fragment, and a masked payload. RFC 6455, 5.2.
_FIN, _MASKED = 0x80, 0x80

_NO_KEY = bytes(4)


def encode_frame(opcode: Opcode, payload: bytes, *, is_last: bool = True) -> bytes:
    """Return a frame as a client sends it, masked with a key of zeros. is_last: it ends the message."""
    return _header(opcode, len(payload), _NO_KEY, is_last=is_last) + payload


def received_by(frames: Connection, parts: Iterable[str | bytes]) -> bytes:
    """Return bytes after which a new reader has received what `frames` has, but for what it has passed on.

    frames: the server's side, without extensions. parts: those of a message that it has passed on, and that
    is not complete.
    """
    reader = frames._proto  # noqa: SLF001 - nothing public says where it is
    decoder, message = reader._frame_decoder, reader._message_decoder  # noqa: SLF001
    found = b""
    if message.opcode is not None:
        content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
        cut = b"" if message.decoder is None else message.decoder.getstate()[0]  # of a character
        found = encode_frame(message.opcode, content + cut, is_last=False)
    if decoder.header is not None:
        assert decoder.masker is not None
        assert decoder.effective_opcode is not None
        left = decoder.header.payload_len - decoder.payload_consumed
        key = decoder.masker.process(bytearray(_NO_KEY))  # from the next byte on
        found += _header(decoder.effective_opcode, left, bytes(key), is_last=decoder.header.fin)
    return found + bytes(decoder.buffer.buffer)


def _header(opcode: Opcode, size: int, key: bytes, *, is_last: bool) -> bytes:
    first = opcode | (_FIN if is_last else 0)
    if size < 126:
        return bytes((first, _MASKED | size)) + key
    pack, mark = (_SHORT.pack, 126) if size < 1 << 16 else (_LONG.pack, 127)
    return pack(first, _MASKED | mark, size) + key
