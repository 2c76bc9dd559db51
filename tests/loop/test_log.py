"""The log that is not held up by what repeats."""

import contextlib
import logging
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor import Address
from reactor.errors import FramingError
from reactor.framing import Delimited, FixedLength, LengthPrefixed, Lines, Netstrings, VarintPrefixed
from reactor.loop.log import BackgroundLog, LimitedLog, LineFormatter, caller, printable
from reactor.loop.timers import TimerHeap
from reactor.testing import ManualClock


class Timers:
    """A loop's `call_later`, on a clock that is moved by hand."""

    def __init__(self):
        self.clock = ManualClock()
        self.heap = TimerHeap()

    def call_later(self, delay, callback, *args):
        self.heap.add(self.clock.now + delay, callback, *args)

    def advance(self, seconds):
        self.clock.advance(seconds)
        while (handle := self.heap.first_due(self.clock.now)) is not None:
            callback, args = handle.pending()
            handle.clear()
            callback(*args)


@pytest.fixture
def timers():
    return Timers()


@pytest.fixture
def limited(timers):
    return LimitedLog(timers.call_later)


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_what_repeats_is_counted_and_told_once_a_second(limited, timers, caplog):
    for second in range(3):
        for number in range(1000):
            limited.log(logging.ERROR, "key", "failed: %d", number)
        timers.advance(1)
        assert len(lines(caplog)) == second + 2
    assert lines(caplog)[0] == "failed: 0"
    assert lines(caplog)[1] == "failed: 999 (and 999 more like it in 1 s, of which this is the last)"
    assert "and 1000 more" in lines(caplog)[2]


def test_what_has_stopped_is_told_at_once_when_it_begins_anew(limited, timers, caplog):
    limited.log(logging.ERROR, "key", "failed")
    timers.advance(1)
    assert len(timers.heap) == 0
    limited.log(logging.ERROR, "key", "failed")
    assert lines(caplog) == ["failed", "failed"]


def test_what_differs_does_not_hide_each_other(limited, caplog):
    limited.log(logging.ERROR, "one", "one")
    limited.log(logging.WARNING, "other", "other")
    assert lines(caplog) == ["one", "other"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_nothing_counted_is_lost_at_the_end(limited, timers, caplog):
    limited.log(logging.ERROR, "key", "failed")
    limited.flush()
    limited.flush()
    assert lines(caplog) == ["failed"]
    limited.log(logging.ERROR, "key", "failed")
    limited.log(logging.ERROR, "key", "failed")
    limited.flush()
    assert "and 1 more" in lines(caplog)[-1]
    timers.advance(10)
    assert len(lines(caplog)) == 3


def test_caller_is_the_line_that_called():
    file, _, line = caller().rpartition(":")
    assert file == __file__
    assert int(line) > 0


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_lines_are_written_in_the_background_in_order(pipe):
    reader, writer = pipe
    handler = BackgroundLog(writer)
    for number in range(100):
        handler.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,), "levelno": 20}))
    handler.finish(20)
    assert os.read(reader, 1 << 16).decode().splitlines() == [f"line {number}" for number in range(100)]


@pytest.fixture
def full_pipe(pipe):
    """A pipe that takes nothing until it is read; dots are in it."""
    _, writer = pipe
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    return pipe


class Received:
    """What is read of a pipe that was full of dots."""

    def __init__(self, reader):
        self.reader = reader
        self.data = b""

    def read_until(self, enough):
        """Read until `enough` is true of the lines, and return them."""
        while not enough(lines := self.data.lstrip(b".").splitlines()):
            self.data += os.read(self.reader, 1 << 16)
        return lines


def test_full_pipe_holds_nobody_up_and_what_is_dropped_is_told(full_pipe):
    reader, writer = full_pipe
    handler = BackgroundLog(writer)
    for number in range(BackgroundLog.MOST + 100):
        handler.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,), "levelno": 20}))
    received = Received(reader)
    received.read_until(lambda lines: len(lines) > 10)  # there is room again
    handler.handle(logging.makeLogRecord({"msg": "after", "levelno": 20}))
    *lines, _ = received.read_until(lambda lines: lines[-1:] == [b"after"])
    told = [
        int(line.split()[0]) for line in lines if line.endswith(b" log lines were dropped: nobody takes them")
    ]
    written = [line for line in lines if line.startswith(b"line ")]
    assert written == [b"line %d" % number for number in range(len(written))]
    assert len(written) <= BackgroundLog.MOST + 1  # one may be with the thread
    assert len(written) + sum(told) == BackgroundLog.MOST + 100
    assert len(written) + len(told) == len(lines)
    handler.finish(20)


def test_end_waits_no_longer_than_it_is_told(full_pipe):
    reader, writer = full_pipe
    handler = BackgroundLog(writer)
    handler.handle(logging.makeLogRecord({"msg": "late", "levelno": 20}))
    handler.finish(0)
    assert Received(reader).read_until(bool) == [b"late"]


def test_reader_that_has_gone_is_survived():
    reader, writer = os.pipe()
    os.close(reader)
    handler = BackgroundLog(writer)
    handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
    handler.finish(20)
    os.close(writer)


# What a peer sends, or is called, is never raw in the log

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too
PLAIN = "plain"


@example("\x1b[2J\r\n\x00\x7f\x9b\u2028\u202e\udcff")
@given(ANY_TEXT)
def test_printable_text_has_no_control_character(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert [character for character in text if character.isprintable() and character not in shown] == []


def test_what_is_printable_stays_as_it_is():
    assert printable("Grüße: 2 ≤ 3, C:\\n") == "Grüße: 2 ≤ 3, C:\\n"
    assert printable("a\nb\x1b[0m\x85\ud800") == r"a\nb\x1b[0m\x85\ud800"


def raised(text, *, grouped=False):
    """Return an exception of which everything that can hold a text does, with a traceback."""
    try:
        try:
            raise LookupError(text)
        except LookupError as exc:
            other = ValueError(text)
            raise (ExceptionGroup(text, [other, exc]) if grouped else other) from exc
    except (ValueError, ExceptionGroup) as exc:
        return exc


def formatted(text, **options):
    record = logging.makeLogRecord({"msg": "failed: %s", "args": (text,), "levelname": "ERROR"})
    exc = raised(text, **options)
    record.exc_info = (type(exc), exc, exc.__traceback__)
    return LineFormatter("%(levelname)s %(message)s").format(record).split("\n")


@example(text="\n2026-01-01 00:00:00,000 INFO listening on 0.0.0.0:22", grouped=False)
@example(text='\n  File "a", line 1\n', grouped=True)
@given(text=ANY_TEXT, grouped=st.booleans())
def test_record_is_one_line_and_its_traceback_whatever_the_text(text, grouped):
    lines = formatted(text, grouped=grouped)
    expected = formatted(PLAIN, grouped=grouped)
    assert all(line.isprintable() for line in lines)
    assert len(lines) == len(expected)
    assert lines[0] == f"ERROR failed: {printable(text)}"


def test_traceback_stays_readable():
    lines = formatted("a\nb")
    assert r"ValueError: a\nb" in lines
    assert "    raise LookupError(text)" in lines
    assert any(line.startswith(f'  File "{__file__}", line ') for line in lines)


def test_formatter_leaves_a_record_to_others_as_it_was():
    exc = raised("a\nb")
    record = logging.makeLogRecord({"msg": "x", "exc_info": (type(exc), exc, exc.__traceback__)})
    record.stack_info = "Stack (most recent call last):"
    assert (
        LineFormatter("%(asctime)s %(message)s").format(record).endswith("\nStack (most recent call last):")
    )
    assert record.exc_text is None


@given(ANY_TEXT)
def test_arguments_are_escaped_whatever_logging_the_program_has(text):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("reactor")
    logger.addHandler(handler)
    try:
        timers = Timers()
        limited = LimitedLog(timers.call_later)
        for number in range(2):
            limited.log(logging.ERROR, "key", "%s: %d: %s", Address(path=text), number, OSError(text))
        limited.flush()
    finally:
        logger.removeHandler(handler)
    first, second = [record.getMessage() for record in records]
    assert first == f"unix:{printable(text)}: 0: {printable(text)}"
    assert second.startswith(f"unix:{printable(text)}: 1: {printable(text)} (and 1 more like it")


FRAMERS = [
    lambda: Lines(8),
    lambda: Delimited(b"\x1b\n", 8),
    lambda: FixedLength(8),
    lambda: LengthPrefixed(2, limit=8),
    lambda: VarintPrefixed(8),
    lambda: Netstrings(8),
]


@given(
    st.sampled_from(FRAMERS),
    st.binary(max_size=64) | st.from_regex(rb"[0-9]{1,3}:?[^,]{0,9}", fullmatch=True),
)
def test_errors_made_of_a_peer_s_bytes_print_safely(framer, data):
    for framing in (framer(), framer()):
        try:
            framing.feed(data)
            framing.finish()
        except FramingError as exc:
            assert str(exc).isprintable()
            assert repr(exc).isprintable()


def test_background_log_writes_what_no_encoding_has(pipe):
    reader, writer = pipe
    handler = BackgroundLog(writer)
    for formatter in (None, logging.Formatter()):
        if formatter is not None:
            handler.setFormatter(formatter)
        handler.handle(logging.makeLogRecord({"msg": "\ud800", "levelno": 20}))
    handler.handle(logging.makeLogRecord({"msg": "after", "levelno": 20}))
    handler.finish(20)
    assert os.read(reader, 1 << 16) == b"\\ud800\n\\ud800\nafter\n"
