"""The table of a connector's phases: every move is in it or is impossible, and each phase has its way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.connecting.state import IN_ROUND, SHOWN, TRANSITIONS, ConnectorState, Event, Phase, after


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("phase", Phase)
def test_every_phase_and_event_is_in_the_table_or_refused(phase, event):
    if (phase, event) in TRANSITIONS:
        assert after(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(KeyError, match=f"no move from {phase.name} on {event.name}"):
            after(phase, event)


def test_a_cancel_ends_it_whatever_it_does_and_nothing_else_follows():
    assert {after(phase, Event.CANCEL) for phase in Phase} == {Phase.DONE}
    assert [event for phase, event in TRANSITIONS if phase is Phase.DONE] == [Event.CANCEL]


def test_a_round_may_fail_or_be_interrupted_at_any_point():
    for phase in IN_ROUND:
        assert after(phase, Event.FAILED) is Phase.WAITING
        assert after(phase, Event.GAVE_UP) is Phase.DONE
        assert after(phase, Event.INTERRUPTED) is Phase.WAITING


def test_every_phase_is_shown_and_every_state_stands_for_one():
    assert set(SHOWN) == set(Phase)
    assert set(SHOWN.values()) == set(ConnectorState)


@given(st.lists(st.sampled_from(Event)))
def test_a_round_goes_forward_until_it_ends(events):
    order = [Phase.RESOLVING, Phase.RACING, Phase.HANDSHAKING, Phase.CONNECTED]
    phase, passed = Phase.WAITING, []
    for event in events:
        if (phase, event) not in TRANSITIONS:
            continue
        phase = after(phase, event)
        if phase in order:
            passed.append(phase)
            assert passed == sorted(set(passed), key=order.index)
            assert passed[0] is Phase.RESOLVING
        else:
            passed = []
