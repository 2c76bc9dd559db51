"""The transitions of a connection: every pair of state and event is listed or raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.connection.state import CLOSES, ENDED, READABLE, TRANSITIONS, WRITABLE, Event, State, after
from tests.helpers import assert_transition


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_transition_that_the_table_does_not_list_raises(state, event):
    assert_transition(after, TRANSITIONS, state, event)


def test_cut_leads_to_closed_from_every_state_before_it():
    for state in set(State) - ENDED:
        assert after(state, Event.CUT) is State.CLOSED


def test_connection_lost_follows_closed_only_and_lost_is_final():
    assert [state for state, event in TRANSITIONS if event is Event.NOTIFIED] == [State.CLOSED]
    assert {after for (state, _), after in TRANSITIONS.items() if state is State.LOST} == {State.LOST}


def test_each_direction_ends_on_its_own():
    assert {State.OPEN} == READABLE & WRITABLE
    assert after(after(State.OPEN, Event.PEER_EOF), Event.WRITE_EOF) is State.ENDING
    assert after(after(State.OPEN, Event.WRITE_EOF), Event.PEER_EOF) is State.ENDING


def test_the_peer_may_go_on_sending_in_closing_and_not_in_ending():
    assert {state for (state, event), to in TRANSITIONS.items() if to is State.CLOSING} == {
        State.OPENING,
        *READABLE,
    }
    assert {state for (state, event), to in TRANSITIONS.items() if to is State.ENDING} == {
        State.READ_CLOSED,
        State.WRITE_CLOSED,
    }
    assert not CLOSES & (READABLE | WRITABLE | ENDED)


def test_forked_leads_from_every_state_to_lost():
    assert {after(state, Event.FORKED) for state in State} == {State.LOST}


@given(st.lists(st.sampled_from(Event)))
def test_no_event_leads_to_an_earlier_state(events):
    order = [
        {State.OPENING},
        {State.OPEN},
        {State.READ_CLOSED, State.WRITE_CLOSED},
        CLOSES,
        {State.CLOSED},
        {State.LOST},
    ]
    state = State.OPENING
    for event in events:
        if (state, event) in TRANSITIONS:
            if state is State.LOST:
                assert after(state, event) is State.LOST
                continue
            before = next(i for i, states in enumerate(order) if state in states)
            state = after(state, event)
            assert state in set().union(*order[before + 1 :])
