"""The place of a reader in a stream of frames, described by bytes for another reader."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import Opcode

from reactor.http.frames import encode_frame, received_by
from tests.helpers import examples

CUTS = st.lists(st.integers(0, 40), max_size=3)
FRAGMENTED = st.lists(
    st.tuples(st.one_of(st.text(max_size=40), st.binary(max_size=300)), CUTS, st.booleans()),
    min_size=1, max_size=4,
)  # fmt: skip


def stream_of(messages):
    """Frames of messages, each cut into fragments, some of them with a ping after every fragment."""
    client, data = Connection(ConnectionType.CLIENT), b""
    for message, cuts, pinged in messages:
        kind = TextMessage if isinstance(message, str) else BytesMessage
        bounds = [0, *sorted(cuts), len(message)]
        fragments = [message[start:end] for start, end in pairwise(bounds)]
        for number, fragment in enumerate(fragments, 1):
            data += client.send(kind(fragment, message_finished=number == len(fragments)))
            if pinged:
                data += client.send(Ping(b"%d" % number))
    return data + client.send(CloseConnection(4000, "done"))


class Reader:
    """A side that notes what it has received."""

    def __init__(self, heard, kind=ConnectionType.SERVER):
        self.frames = Connection(kind)
        self.heard = heard
        self.parts = []

    def receive(self, data):
        self.frames.receive_data(data)
        for event in self.frames.events():
            if not isinstance(event, Message):
                self.heard.append(event)
                continue
            self.parts.append(event.data)
            if event.message_finished:
                self.heard.append(event.data[:0].join(self.parts))
                self.parts = []

    def moved(self):
        other = Reader(self.heard)
        other.receive(received_by(self.frames, self.parts))
        return other


@given(FRAGMENTED, st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
@example([("a" * 200, [], False), (b"b" * 70_000, [], False)], [3, 7, 9, 210, 300, 50_000])
@example([("\N{GRINNING FACE}" * 3, [1, 2], True)], list(range(40)))
def test_a_new_reader_goes_on_at_any_byte(messages, places):
    data = stream_of(messages)
    whole = Reader([])
    whole.receive(data)
    reader, at = Reader([]), 0
    for place in sorted(place % len(data) for place in places):
        reader.receive(data[at:place])
        reader, at = reader.moved().moved(), place
    reader.receive(data[at:])
    assert reader.heard == whole.heard
    assert [each for each in whole.heard if isinstance(each, str | bytes)] == [each[0] for each in messages]
    assert whole.heard[-1] == CloseConnection(4000, "done")


@examples(50)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 199))
def test_what_is_no_stream_of_frames_is_refused_with_the_same_code(data, place):
    whole, first = Reader([]), Reader([])
    whole.receive(data)
    first.receive(data[:place])
    if not any(isinstance(each, CloseConnection) for each in first.heard):
        first = first.moved()
        first.receive(data[place:])
    assert first.heard == whole.heard


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_encoded_frame_is_read_as_it_was(size):
    reader = Reader([])
    reader.receive(encode_frame(Opcode.BINARY, bytes(size)))
    assert reader.heard == [bytes(size)]
