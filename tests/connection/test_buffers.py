"""The outbound buffer against a model that is plain bytes."""

import io

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.connection.buffers import PIECES_PER_SEND, FilePart, OutboundBuffer


class BufferMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.buffer = OutboundBuffer()
        self.model = b""
        self.all_sent = b""
        self.pieces = []
        self.sizes = {}
        self.files = []  # with their ends in the written stream

    @rule(piece=st.binary(max_size=20))
    def append(self, piece):
        self.buffer.append(piece)
        self.model += piece
        self.pieces.append(piece)

    @rule(size=st.integers(1, 20), offset=st.integers(0, 5))
    def append_file(self, size, offset):
        file = io.BytesIO(bytes(range(100, 100 + offset + size + 5)))
        self.buffer.append(FilePart(file, offset, size))
        self.model += file.getvalue()[offset : offset + size]
        end = len(self.all_sent) + len(self.model)
        self.files.append((end, file))
        self.sizes[end] = size

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def advance(self, data):
        sent = data.draw(st.integers(0, len(self.comes_next())))
        self.buffer.advance(sent)
        self.all_sent += self.model[:sent]
        self.model = self.model[sent:]

    @rule(limit=st.integers(1, 50))
    def vector_may_be_bounded(self, limit):
        whole = self.buffer.vector()
        vector = self.buffer.vector(limit)
        assert b"".join(vector) == b"".join(whole)[:limit]
        assert all(len(piece) for piece in vector)
        for piece, one in list(zip(vector, whole, strict=False))[:-1]:
            assert piece is one or piece.obj is one.obj

    @rule()
    def drop(self):
        self.buffer.drop()
        self.all_sent += self.model
        self.model = b""

    def comes_next(self):
        part = self.buffer.file_part()
        if part is None:
            return b"".join(self.buffer.vector())
        file, offset, size = part
        return file.getvalue()[offset : offset + size]

    @rule()
    def append_many(self):
        for _ in range(PIECES_PER_SEND + 1):
            self.append(b"ab")

    @rule()
    def join_small(self):
        self.buffer.join_small()

    @invariant()
    def size_is_what_is_left(self):
        assert self.buffer.size == len(self.model)

    @invariant()
    def vector_is_what_comes_next(self):
        vector = self.buffer.vector()
        assert len(vector) <= PIECES_PER_SEND
        assert all(len(piece) for piece in vector)
        assert self.model.startswith(self.comes_next())
        assert bool(self.comes_next()) is bool(self.model)

    @invariant()
    def vector_goes_on_to_the_next_file(self):
        waiting = [end for end, file in self.files if not file.closed]
        if not waiting and len(self.buffer.vector()) < PIECES_PER_SEND:
            assert self.comes_next() == self.model

    @invariant()
    def files_are_closed_when_they_were_sent(self):
        for end, file in self.files:
            assert file.closed is (end <= len(self.all_sent))

    @invariant()
    def what_is_in_memory_is_what_is_in_no_file(self):
        on_disk, sent = 0, len(self.all_sent)
        for end, file in self.files:
            if not file.closed:
                on_disk += min(end - sent, self.sizes[end])
        assert self.buffer.in_memory() == self.buffer.size - on_disk

    @rule(size=st.sampled_from([1023, 1024, 70_000]))
    def append_large(self, size):
        self.append(bytes(size))

    @invariant()
    def no_large_piece_is_copied(self):
        known = {id(piece) for piece in self.pieces}
        for piece in self.buffer.vector():
            whole = piece.obj if isinstance(piece, memoryview) else piece
            assert id(whole) in known or len(whole) <= 65536

    @invariant()
    def few_pieces_are_small_once_they_are_joined(self):
        self.buffer.join_small()
        assert len(self.buffer.pieces) <= PIECES_PER_SEND * 2 + len(self.model) // 512 + 2 * len(self.files)


TestBuffer = BufferMachine.TestCase


def test_piece_that_is_not_cut_is_not_copied():
    buffer = OutboundBuffer()
    first, second = b"x" * 1000, b"y" * 1000
    buffer.append(first)
    buffer.append(second)
    buffer.advance(10)
    view, untouched = buffer.vector()
    assert view.obj is first
    assert untouched is second
    assert buffer.vector(1990)[1] is second
    assert len(buffer.vector(1989)[1]) == 999
    assert len(buffer.vector(990)) == 1


def test_buffer_can_be_used_again_after_it_was_emptied():
    buffer = OutboundBuffer()
    for piece in (b"first", b"second"):
        buffer.append(piece)
        buffer.advance(len(piece))
        assert (buffer.size, buffer.vector()) == (0, [])


def test_rest_of_a_file_starts_at_its_offset():
    buffer = OutboundBuffer()
    file = io.BytesIO(bytes(20))
    buffer.append(FilePart(file, 3, 10))
    buffer.advance(1)
    assert buffer.file_part() == (file, 4, 9)


@pytest.mark.parametrize("size", [1, 2, 100, 1023])
def test_small_pieces_are_joined_in_their_order(size):
    buffer = OutboundBuffer()
    pieces = [bytes([number % 256]) * size for number in range(5000)]
    for piece in pieces:
        buffer.append(piece)
    buffer.advance(size // 2)
    buffer.join_small()
    assert len(buffer.pieces) <= 2 + 5000 * size // 32768 + 1
    joined = b""
    while vector := buffer.vector():
        joined += b"".join(vector)
        buffer.advance(sum(map(len, vector)))
    assert joined == b"".join(pieces)[size // 2 :]
