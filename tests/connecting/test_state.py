"""The transitions of a connector: every pair of phase and event is listed or raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.connecting.state import IN_ROUND, SHOWN, TRANSITIONS, ConnectorState, Event, Phase, after
from tests.helpers import assert_transition


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("phase", Phase)
def test_transition_that_the_table_does_not_list_raises(phase, event):
    assert_transition(after, TRANSITIONS, phase, event)


def test_cancel_leads_from_every_phase_to_done_which_is_final():
    assert {after(phase, Event.CANCEL) for phase in Phase} == {Phase.DONE}
    assert [event for phase, event in TRANSITIONS if phase is Phase.DONE] == [Event.CANCEL]


def test_round_may_fail_or_be_interrupted_in_any_phase():
    for phase in IN_ROUND:
        assert after(phase, Event.FAILED) is Phase.WAITING
        assert after(phase, Event.GAVE_UP) is Phase.DONE
        assert after(phase, Event.INTERRUPTED) is Phase.WAITING


def test_every_phase_has_a_public_state_and_every_state_a_phase():
    assert set(SHOWN) == set(Phase)
    assert set(SHOWN.values()) == set(ConnectorState)


@given(st.lists(st.sampled_from(Event)))
def test_no_event_leads_back_within_a_round(events):
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
