"""Interrupts: which of them end a connection. `tests/test_interrupts.py` walks them through all lines."""

import pytest

from reactor import ConnectionAborted
from reactor.connection.interrupts import Step, came_out_of
from reactor.testing import Recorder
from tests.helpers import pair, spin


class Interrupted(Recorder):
    """Raises in the callback `where`, once."""

    def __init__(self, where, exc):
        super().__init__()
        self.where, self.exc = where, exc

    def data_received(self, data):
        super().data_received(data)
        self.at("data_received")

    def eof_received(self):
        super().eof_received()
        self.at("eof_received")

    def at(self, name):
        if name == self.where:
            self.where = None
            raise self.exc


class Passing(Interrupted):
    """Passes what it receives on to a callback of its own; nothing else of it may be interrupted."""

    _interruptible = ("passed_on",)

    def data_received(self, data):
        self.passed_on(data)
        self.at("data_received")

    def passed_on(self, data):
        Recorder.data_received(self, data)
        self.at("passed_on")


@pytest.mark.parametrize("exc", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    ("kind", "where", "ends"),
    [
        (Interrupted, "data_received", False),
        (Interrupted, "eof_received", True),
        (Passing, "passed_on", False),
        (Passing, "data_received", True),
    ],
)
def test_interrupt_in_a_callback_ends_the_connection_if_something_is_left_half_done(
    reactor, kind, where, ends, exc
):
    protocol = kind(where, exc)
    _, peer = pair(reactor, protocol)
    with peer:
        peer.send(b"one")
        if where == "eof_received":
            spin(reactor, lambda: protocol.received == b"one")
            peer.close()
        with pytest.raises(exc):
            spin(reactor, lambda: False)
        if ends:
            spin(reactor, lambda: protocol.lost)
            assert isinstance(protocol.reason, ConnectionAborted)
            assert str(protocol.reason) == f"{exc.__name__} came in the middle of what it did"
        else:
            peer.send(b"two")
            spin(reactor, lambda: protocol.received == b"onetwo")


def test_exception_raised_elsewhere_did_not_come_out_of_a_callback():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as exc:
        assert not came_out_of(Recorder(), exc)
        assert not came_out_of(None, exc)


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(), ValueError(), None])
def test_step_reports_interrupts_and_no_other_exceptions(exc):
    seen = []
    step = Step(seen.append)
    if exc is None:
        with step:
            pass
    else:
        with pytest.raises(type(exc)), step:
            raise exc
    assert seen == ([] if exc is None or isinstance(exc, Exception) else [exc])
