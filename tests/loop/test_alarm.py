"""The alarm: a descriptor that is readable at the time it is set to, and not before."""

import os
import select
import shutil
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.loop.alarm import new_alarm
from tests.helpers import DEADLINE


@pytest.fixture
def alarm(descriptors):
    called = []
    made = new_alarm(lambda: called.append(True))
    yield made, called
    made.close()


def readable(alarm, wait=0.0):
    return bool(select.select([alarm.fileno()], [], [], wait)[0])


@pytest.mark.parametrize("delay", [0.02, 0.0, -5.0, 1e-12])
def test_alarm_is_readable_from_its_time_on(alarm, delay):
    alarm, called = alarm
    assert not readable(alarm)
    began = time.monotonic()
    alarm.set(delay)
    assert readable(alarm, DEADLINE)
    assert time.monotonic() - began >= delay
    assert readable(alarm)
    alarm.on_event(1)
    assert called == [True]
    assert not readable(alarm)


def test_setting_another_time_replaces_the_first(alarm):
    alarm, called = alarm
    alarm.set(0)
    assert readable(alarm, DEADLINE)
    alarm.set(86400)
    assert not readable(alarm)
    alarm.on_event(1)
    assert called == [True]


@given(delay=st.floats(0, 86400))
def test_alarm_can_be_set_to_any_time(delay):
    alarm = new_alarm(lambda: None)
    try:
        alarm.set(delay)
    finally:
        alarm.close()


def test_alarm_s_descriptor_is_not_inherited(alarm):
    alarm, _ = alarm
    assert not os.get_inheritable(alarm.fileno())
    assert not os.get_blocking(alarm.fileno())


def test_without_an_alarm_fileno_is_readable_for_an_earlier_timer(tmp_path):
    assert shutil.which("strace"), "strace is missing: install the package strace"
    program = textwrap.dedent("""
        import select
        from reactor import Reactor

        def readable(wait=0):
            return bool(select.select([reactor.fileno()], [], [], wait)[0])

        with Reactor() as reactor:
            assert not reactor.timers_in_fileno()
            assert not readable()
            ran = []
            for delay in (0.02, 0.01, 5.0):
                reactor.call_later(delay, ran.append, delay)
                assert readable() == (delay < 5), "the host would not see an earlier time"
                reactor.run_once(0)
                assert not readable()
                assert reactor.next_timeout() <= delay
            while len(ran) < 2:
                assert not readable(reactor.next_timeout())
                reactor.run_once(0)
            assert ran == [0.01, 0.02]
            reactor.call_soon(ran.append, 3)
            assert readable()
            reactor.run_once(0)
            assert not readable()
            reactor.call_later(0.5, int)
            assert readable()
    """)
    strace = ["strace", "-f", "-o", str(tmp_path / "trace"), "-e", "trace=timerfd_create"]
    subprocess.run(
        [*strace, "-e", "inject=timerfd_create:error=ENOSYS", sys.executable, "-c", program],
        check=True,
        timeout=DEADLINE,
    )
    assert "ENOSYS" in (tmp_path / "trace").read_text()
