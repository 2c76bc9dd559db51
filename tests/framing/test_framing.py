"""Framing: the same frames are decoded however the bytes are cut, and malformed ones raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.errors import FrameTooLong, FramingError, IncompleteFrame, MalformedFrame
from reactor.framing import (
    Block,
    Delimited,
    FixedLength,
    Framer,
    LengthPrefixed,
    Lines,
    Netstrings,
    VarintPrefixed,
)

LIMIT = 300  # two bytes as a varint

KINDS = {
    "lines": lambda: Lines(LIMIT),
    "lines with CR": lambda: Lines(LIMIT + 1, ending=b"\r\n"),
    "delimited": lambda: Delimited(b"\0", LIMIT),
    "delimited by more": lambda: Delimited(b"abab", LIMIT),
    "fixed": lambda: FixedLength(7),
    "length in 1": lambda: LengthPrefixed(1),
    "length in 2": lambda: LengthPrefixed(2, "little", LIMIT),
    "length in 4": lambda: LengthPrefixed(limit=LIMIT),
    "length in 8": lambda: LengthPrefixed(8, limit=LIMIT),
    "varint": lambda: VarintPrefixed(LIMIT),
    "netstring": lambda: Netstrings(LIMIT),
}


@pytest.fixture(params=list(KINDS))
def make(request):
    return KINDS[request.param]


def usable(framer, frame):
    """Return `frame` changed into one that this framer can encode."""
    if isinstance(framer, FixedLength):
        return frame[:7].ljust(7, b".")
    if isinstance(framer, Lines):
        return frame.replace(b"\n", b"").rstrip(b"\r")
    if isinstance(framer, Delimited):
        return frame.replace(b"\0", b"").replace(b"ab", b"").rstrip(b"a")
    return frame[:LIMIT]


def cut(data, places):
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


FRAMES = st.lists(
    st.binary(max_size=60) | st.sampled_from([b"", b"x" * 127, b"y" * 128, b"z" * 250]), max_size=8
)
PLACES = st.lists(st.integers(0, 2000), max_size=40)


@given(data=st.data(), frames=FRAMES, places=PLACES, as_view=st.booleans())
def test_frames_are_decoded_as_encoded_however_they_are_cut(make, data, frames, places, as_view):
    framer = make()
    frames = [usable(framer, frame) for frame in frames]
    sent = b"".join(map(framer.encode, frames))
    got = []
    for piece in cut(sent, places):
        got += framer.feed(memoryview(piece) if as_view else piece)
    assert got + framer.finish() == frames
    assert all(type(frame) is bytes for frame in got)


def sent_and_begun(framer, frames, next_frame, at):
    """Return usable frames, their encoding, and up to `at` bytes of the next one's, which is incomplete."""
    frames = [usable(framer, frame) for frame in frames]
    begun = framer.encode(usable(framer, next_frame))
    return frames, b"".join(map(framer.encode, frames)), begun[: min(at, len(begun) - 1)]


@pytest.mark.slow
@given(frames=FRAMES, places=PLACES, next_frame=st.binary(min_size=1, max_size=60), at=st.integers(0, 70))
def test_rest_after_the_last_frame_can_be_taken(make, frames, places, next_frame, at):
    framer = make()
    frames, sent, begun = sent_and_begun(framer, frames, next_frame, at)
    got = []
    for piece in cut(sent + begun, places):
        got += framer.feed(piece)
    assert got == frames
    assert framer.take_rest() == begun
    assert framer.take_rest() == b""
    assert framer.feed(sent) == frames


def one_by_one(framer, pieces):
    for piece in pieces:
        at = 0
        while at < len(piece):
            frame, at = framer.next_frame(piece, at)
            if frame is not None:
                yield frame


@given(frames=FRAMES, places=PLACES, next_frame=st.binary(min_size=1, max_size=60), at=st.integers(0, 70))
def test_next_frame_decodes_the_same_frames_and_leaves_the_rest(make, frames, places, next_frame, at):
    framer = make()
    frames, sent, begun = sent_and_begun(framer, frames, next_frame, at)
    assert list(one_by_one(framer, cut(sent + begun, places))) == frames
    assert framer.take_rest() == begun
    assert framer.feed(sent) == frames  # the two methods may be mixed
    framer.feed(begun)
    assert list(one_by_one(framer, [framer.encode(usable(framer, next_frame))[len(begun) :]]))
    for frame in frames:  # bytes behind a frame are not consumed
        encoded = framer.encode(frame)
        assert framer.next_frame(b"." + encoded + b"\r\n\0,", 1) == (frame, len(encoded) + 1)


@given(data=st.binary(max_size=300), places=PLACES)
def test_next_frame_fails_on_garbage_as_feed_does(make, data, places):
    framer = make()
    frames, problem = [], None
    try:
        frames.extend(one_by_one(framer, cut(data, places)))
        frames += framer.finish()
    except FramingError as exc:
        problem = type(exc)
    assert (frames, problem) == decoded(make(), [data])


@given(size=st.integers(0, 40), data=st.binary(max_size=60), places=PLACES)
def test_block_decodes_one_frame_only(size, data, places):
    block = Block(size)
    frames, problem = [], None
    try:
        for piece in cut(data, places):
            frames += block.feed(piece)
        frames += block.finish()
    except FramingError as exc:
        frames += exc.frames
        problem = type(exc)
    assert frames == ([data[:size]] if len(data) >= size else [])
    assert problem is (IncompleteFrame if len(data) < size else MalformedFrame if len(data) > size else None)


def test_rest_after_a_block_can_be_taken():
    block = Block(3)
    assert block.next_frame(b".ab", 1) == (None, 3)
    assert block.next_frame(b"cde") == (b"abc", 1)
    assert block.take_rest() == b""
    assert Block(0).next_frame(b"x") == (b"", 0)
    assert block.encode(b"abc") == b"abc"
    with pytest.raises(MalformedFrame, match="more came after the 3 bytes"):
        block.next_frame(b"d")


@pytest.mark.slow
@given(data=st.binary(max_size=1500), places=PLACES)
def test_result_for_garbage_does_not_depend_on_how_it_is_cut(make, data, places):
    assert decoded(make(), cut(data, places)) == decoded(make(), [data])


def decoded(framer, pieces):
    """Return the frames, and the type of the error that ended them."""
    frames = []
    try:
        for piece in pieces:
            frames += framer.feed(piece)
        frames += framer.finish()
    except FramingError as exc:
        with pytest.raises(FramingError) as again:
            framer.feed(b"more")
        assert (type(again.value), again.value.frames) == (type(exc), [])
        with pytest.raises(type(exc)):
            framer.finish()
        return frames + exc.frames, type(exc)
    return frames, None


@pytest.mark.parametrize(
    ("framer", "data", "frames", "error", "message"),
    [
        (Lines(4), b"abcd\r\nx\nabcde\n", [], FrameTooLong, "longer than the limit of 4 bytes"),
        (Lines(4), b"abc\r\nx\nabcde\n", [b"abc", b"x"], FrameTooLong, "limit of 4 bytes"),
        (Lines(4), b"a\nabcde", [b"a"], FrameTooLong, "limit of 4 bytes"),
        (Delimited(b"--", 4), b"a--b--abcdef", [b"a", b"b"], FrameTooLong, "limit of 4 bytes"),
        (LengthPrefixed(1, limit=3), b"\1a\4abcd", [b"a"], FrameTooLong, "limit of 3 bytes"),
        (LengthPrefixed(), b"\0\0\0\1a\xff\0\0\0", [b"a"], FrameTooLong, "limit of 65536 bytes"),
        (VarintPrefixed(3), b"\1a\4", [b"a"], FrameTooLong, "limit of 3 bytes"),
        (VarintPrefixed(), b"\1a" + b"\x80" * 10, [b"a"], MalformedFrame, "more than 10 bytes is no length"),
        (Netstrings(), b"1:a,1:b;", [b"a"], MalformedFrame, "ends with b';', not b','"),
        (Netstrings(), b"1:a,01:b,", [b"a"], MalformedFrame, "not with b'01'"),
        (Netstrings(), b"1:a,:b,", [b"a"], MalformedFrame, "not with a colon"),
        (Netstrings(), b"1:a,-1:b,", [b"a"], MalformedFrame, "not with b'-1'"),
        (Netstrings(), b"1:a,GET / HTTP", [b"a"], MalformedFrame, "begins with its length and a colon"),
        (Netstrings(9), b"1:a,10:", [b"a"], FrameTooLong, "limit of 9 bytes"),
        (Netstrings(9), b"1:a,1000", [b"a"], MalformedFrame, "at most 9 bytes can't have the length b'100'"),
    ],
)
def test_malformed_frame_raises_after_the_frames_before_it(framer, data, frames, error, message):
    with pytest.raises(error) as caught:
        framer.feed(data)
    assert caught.value.frames == frames
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "pieces",
    [[b"abcd"] * 3, [b"a"] * 10, [b"\x80"] * 12, [b"9"] * 12, [b"\xff\xff\xff\xff\xff\xff\xff\xff"]],
    ids=["more", "letters", "varint", "digits", "length"],
)
def test_too_long_frame_raises_before_it_is_buffered(pieces):
    for framer in (
        Lines(8),
        Delimited(b"--", 8),
        VarintPrefixed(8),
        Netstrings(8),
        LengthPrefixed(8, limit=8),
    ):
        held = 0
        try:
            for piece in pieces:
                framer.feed(piece)
                held += len(piece)
        except FramingError:
            pass
        assert held <= 16


def test_line_ending_may_arrive_in_two_pieces():
    framer = Lines()
    assert framer.feed(b"one\r") == []
    assert framer.feed(b"\ntwo\nthr") == [b"one", b"two"]
    assert framer.feed(b"ee") == []
    assert framer.finish() == [b"three"]
    assert framer.finish() == []


@pytest.mark.parametrize(
    ("framer", "part"),
    [
        (Delimited(b"\0"), b"ab"),
        (FixedLength(3), b"ab"),
        (LengthPrefixed(), b"\0\0"),
        (VarintPrefixed(), b"\5ab"),
        (Netstrings(), b"5:ab"),
    ],
)
def test_end_of_input_within_a_frame_raises(framer, part):
    framer.feed(part)
    with pytest.raises(IncompleteFrame, match=f"ended {len(part)} bytes into a frame"):
        framer.finish()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Lines, lambda limit: Delimited(b"--", limit), LengthPrefixed, Netstrings])
def test_large_frame_in_small_pieces_takes_linear_time(kind):
    """64 MiB in 1 KiB pieces: copying or searching all earlier bytes for each piece would take hours."""
    size = 64 << 20
    framer = LengthPrefixed(limit=size) if kind is LengthPrefixed else kind(size)
    sent = memoryview(framer.encode(bytes(1) * size))
    frames = []
    for at in range(0, len(sent), 1024):
        frames += framer.feed(sent[at : at + 1024])
    assert list(map(len, frames)) == [size]


def test_large_block_in_small_pieces_takes_linear_time():
    size = 64 << 20
    framer = Block(size)
    piece = bytes(1024)
    frames = [frame for _ in range(size // 1024) if (frame := framer.next_frame(piece)[0]) is not None]
    assert list(map(len, frames)) == [size]


@pytest.mark.slow
def test_small_frames_in_large_pieces_take_linear_time():
    framer = LengthPrefixed(1)
    data = framer.encode(b"x") * 500_000
    assert len(framer.feed(data)) == 500_000


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: Lines(0), "limit must be a whole number of bytes, 1 or more, not 0"),
        (lambda: Lines(1.5), "limit must be a whole number"),
        (lambda: Lines(ending=b"\r"), "ending must be LF or CR and LF, not b'\\r'"),
        (lambda: Delimited(b""), "delimiter must be one byte or more, not b''"),
        (lambda: Delimited("--"), "delimiter must be one byte or more, not '--'"),
        (lambda: Block(-1), "size must be a whole number of bytes"),
        (lambda: FixedLength(0), "size must be a whole number of bytes"),
        (lambda: LengthPrefixed(3), "size must be 1, 2, 4 or 8 bytes, not 3"),
        (lambda: LengthPrefixed(4, "network"), "byteorder must be"),
        (lambda: LengthPrefixed(1, limit=256), "limit must be 255 bytes at most"),
        (lambda: Netstrings(True), "limit must be a whole number"),
    ],
)
def test_invalid_parameter_is_refused_by_the_constructor(make_one, message):
    with pytest.raises(ValueError, match="must be") as refused:
        make_one()
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("framer", "frame", "message"),
    [
        (Lines(), b"a\nb", "can't contain its delimiter"),
        (Lines(2), b"abc", "limit of 2 bytes"),
        (Delimited(b"--"), b"a--b", "can't contain its delimiter, b'--'"),
        (Block(2), b"abc", "2 bytes here, not 3"),
        (FixedLength(2), b"abc", "2 bytes here, not 3"),
        (LengthPrefixed(limit=2), b"abc", "limit of 2 bytes"),
        (VarintPrefixed(2), b"abc", "limit of 2 bytes"),
        (Netstrings(2), b"abc", "limit of 2 bytes"),
    ],
)
def test_encode_refuses_an_invalid_frame(framer, frame, message):
    with pytest.raises(ValueError, match=message):
        framer.encode(frame)


def test_user_s_framer_without_optional_methods_names_the_missing_one():
    class Bytes(Framer):
        def feed(self, data):
            return [bytes([byte]) for byte in data]

        def finish(self):
            return []

        def encode(self, frame):
            return frame

    assert Bytes().feed(b"ab") == [b"a", b"b"]
    with pytest.raises(TypeError, match="Bytes must define take_rest"):
        Bytes().take_rest()
    with pytest.raises(TypeError, match="Bytes must define next_frame"):
        Bytes().next_frame(b"ab")
