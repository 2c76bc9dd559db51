"""The background log: one line for a record whatever its text, and a caller that never waits."""

import contextlib
import logging
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor.cli.log import BackgroundLog, LineFormatter
from reactor.loop.log import printable

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too
PLAIN = "plain"


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
    """A pipe that is full of dots."""
    _, writer = pipe
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    return pipe


class Received:
    """The lines read from a pipe that was full of dots."""

    def __init__(self, reader):
        self.reader = reader
        self.data = b""

    def read_until(self, enough):
        """Read until `enough` is true of the lines, and return them."""
        while not enough(lines := self.data.lstrip(b".").splitlines()):
            self.data += os.read(self.reader, 1 << 16)
        return lines


def test_full_pipe_does_not_block_and_dropped_lines_are_counted(full_pipe):
    reader, writer = full_pipe
    handler = BackgroundLog(writer)
    for number in range(BackgroundLog.LIMIT + 100):
        handler.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,), "levelno": 20}))
    received = Received(reader)
    received.read_until(lambda lines: len(lines) > 10)  # there is room again
    handler.handle(logging.makeLogRecord({"msg": "after", "levelno": 20}))
    *lines, _ = received.read_until(lambda lines: lines[-1:] == [b"after"])
    dropped = [
        int(line.split()[0])
        for line in lines
        if line.endswith(b" log lines were dropped: the log was not read fast enough")
    ]
    written = [line for line in lines if line.startswith(b"line ")]
    assert written == [b"line %d" % number for number in range(len(written))]
    assert len(written) <= BackgroundLog.LIMIT + 1  # one may be with the thread
    assert len(written) + sum(dropped) == BackgroundLog.LIMIT + 100
    assert len(written) + len(dropped) == len(lines)
    handler.finish(20)


def test_finish_waits_no_longer_than_its_timeout(full_pipe):
    reader, writer = full_pipe
    handler = BackgroundLog(writer)
    handler.handle(logging.makeLogRecord({"msg": "late", "levelno": 20}))
    handler.finish(0)
    assert Received(reader).read_until(bool) == [b"late"]


def test_broken_pipe_is_ignored():
    reader, writer = os.pipe()
    os.close(reader)
    handler = BackgroundLog(writer)
    handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
    handler.finish(20)
    os.close(writer)


def test_surrogates_are_written_escaped(pipe):
    reader, writer = pipe
    handler = BackgroundLog(writer)
    for formatter in (None, logging.Formatter()):
        if formatter is not None:
            handler.setFormatter(formatter)
        handler.handle(logging.makeLogRecord({"msg": "\ud800", "levelno": 20}))
    handler.handle(logging.makeLogRecord({"msg": "after", "levelno": 20}))
    handler.finish(20)
    assert os.read(reader, 1 << 16) == b"\\ud800\n\\ud800\nafter\n"


def raised(text, *, grouped=False):
    """Return an exception with a traceback; every text in it is `text`."""
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


def test_traceback_keeps_its_lines():
    lines = formatted("a\nb")
    assert r"ValueError: a\nb" in lines
    assert "    raise LookupError(text)" in lines
    assert any(line.startswith(f'  File "{__file__}", line ') for line in lines)


def test_formatter_caches_no_traceback_in_the_record():
    exc = raised("a\nb")
    record = logging.makeLogRecord({"msg": "x", "exc_info": (type(exc), exc, exc.__traceback__)})
    record.stack_info = "Stack (most recent call last):"
    assert (
        LineFormatter("%(asctime)s %(message)s").format(record).endswith("\nStack (most recent call last):")
    )
    assert record.exc_text is None
