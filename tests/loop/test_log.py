"""The rate-limited log, and text that is safe to print."""

import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reactor import Address
from reactor.errors import FramingError
from reactor.framing import Delimited, FixedLength, LengthPrefixed, Lines, Netstrings, VarintPrefixed
from reactor.loop.log import LimitedLog, caller, checked, printable
from reactor.loop.timers import TimerHeap
from reactor.testing import ManualClock

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too


class Timers:
    """A loop's `call_later`, on a manual clock."""

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


def test_repeats_are_counted_and_logged_once_a_second(limited, timers, caplog):
    for second in range(3):
        for number in range(1000):
            limited.error("key", "failed: %d", number)
        timers.advance(1)
        assert len(lines(caplog)) == second + 2
    assert lines(caplog)[0] == "failed: 0"
    assert lines(caplog)[1] == "failed: 999 (and 999 more like it in 1 s, of which this is the last)"
    assert "and 1000 more" in lines(caplog)[2]


def test_record_after_a_pause_is_logged_at_once(limited, timers, caplog):
    limited.error("key", "failed")
    timers.advance(1)
    assert len(timers.heap) == 0
    limited.error("key", "failed")
    assert lines(caplog) == ["failed", "failed"]


def test_records_with_different_keys_are_logged(limited, caplog):
    limited.error("one", "one")
    limited.warning("other", "other")
    assert lines(caplog) == ["one", "other"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_flush_logs_the_counts_that_are_left(limited, timers, caplog):
    limited.error("key", "failed")
    limited.flush()
    limited.flush()
    assert lines(caplog) == ["failed"]
    limited.error("key", "failed")
    limited.error("key", "failed")
    limited.flush()
    assert "and 1 more" in lines(caplog)[-1]
    timers.advance(10)
    assert len(lines(caplog)) == 3


def test_caller_is_the_line_that_called():
    file, _, line = caller().rpartition(":")
    assert file == __file__
    assert int(line) > 0


@example("\x1b[2J\r\n\x00\x7f\x9b\u2028\u202e\udcff")
@given(ANY_TEXT)
def test_printable_text_has_no_control_character(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert [character for character in text if character.isprintable() and character not in shown] == []


def test_printable_text_is_unchanged():
    assert printable("Grüße: 2 ≤ 3, C:\\n") == "Grüße: 2 ≤ 3, C:\\n"
    assert printable("a\nb\x1b[0m\x85\ud800") == r"a\nb\x1b[0m\x85\ud800"


@given(ANY_TEXT)
def test_arguments_are_escaped_for_every_handler(text):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("reactor")
    logger.addHandler(handler)
    try:
        timers = Timers()
        limited = LimitedLog(timers.call_later)
        for number in range(2):
            limited.error("key", "%s: %d: %s", Address(path=text), number, OSError(text))
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


def test_checked_method_asks_for_its_thread_first():
    asked = []

    class Loop:
        check_thread = asked.append

    class Thing:
        def double(self, number, *, by=2):
            """Doubled."""
            return len(asked), number * by

    double = checked(Thing.double, lambda thing: Loop)
    assert double(Thing(), 3, by=3) == (1, 9)
    assert asked == [Thing.double.__qualname__]
    assert double.__doc__ == "Doubled."
