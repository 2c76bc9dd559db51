"""The outbound buffer against a model that is plain bytes."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.buffers import PIECES_PER_SEND, OutboundBuffer


class BufferMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.buffer = OutboundBuffer()
        self.model = b""
        self.pieces = []

    @rule(piece=st.binary(max_size=20))
    def append(self, piece):
        self.buffer.append(piece)
        self.model += piece
        self.pieces.append(piece)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def advance(self, data):
        most = len(b"".join(self.buffer.vector()))
        sent = data.draw(st.integers(0, most))
        self.buffer.advance(sent)
        self.model = self.model[sent:]

    @rule()
    def append_many(self):
        for _ in range(PIECES_PER_SEND + 1):
            self.append(b"ab")

    @invariant()
    def size_is_what_is_left(self):
        assert self.buffer.size == len(self.model)

    @invariant()
    def vector_is_what_comes_next(self):
        vector = self.buffer.vector()
        joined = b"".join(vector)
        assert self.model.startswith(joined)
        assert len(vector) <= PIECES_PER_SEND
        assert all(len(piece) for piece in vector)
        assert bool(vector) is bool(self.model)
        assert len(vector) == PIECES_PER_SEND or joined == self.model

    @invariant()
    def no_piece_is_copied(self):
        known = {id(piece) for piece in self.pieces}
        for piece in self.buffer.vector():
            assert id(piece.obj if isinstance(piece, memoryview) else piece) in known


TestBuffer = BufferMachine.TestCase


def test_an_untouched_piece_is_the_object_that_was_written():
    buffer = OutboundBuffer()
    first, second = b"x" * 1000, b"y" * 1000
    buffer.append(first)
    buffer.append(second)
    buffer.advance(10)
    view, untouched = buffer.vector()
    assert view.obj is first
    assert untouched is second
