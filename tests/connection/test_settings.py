"""Settings shared by connections, and changed for one of them."""

from contextlib import ExitStack

from reactor import Limits, Reactor, Timeouts
from reactor.testing import Recorder
from tests.helpers import pair


def test_settings_change_for_one_connection_and_not_for_the_others():
    with Reactor() as reactor, ExitStack() as opened:
        one, other = Recorder(), Recorder()
        limits, timeouts = Limits(high_water=100, low_water=10), Timeouts(idle=10)
        for recorder in (one, other):
            _, theirs = pair(reactor, recorder, limits=limits, timeouts=timeouts)
            opened.enter_context(theirs)
        one.connection.set_write_buffer_limits(50, 5)
        one.connection.set_timeouts(idle=1)
        assert one.connection.get_write_buffer_limits() == (5, 50)
        assert one.connection.get_timeouts() == Timeouts(idle=1)
        assert other.connection.get_write_buffer_limits() == (10, 100)
        assert other.connection.get_timeouts() == timeouts
