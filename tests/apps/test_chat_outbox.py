"""What was published and has not come back: what comes back, what is lost, and what was shown before."""

from reactor.apps.chat_message import SAID, Message
from reactor.apps.chat_outbox import Outbox


def said(number, node="here"):
    return Message(SAID, "ann", f"{number}", "lobby", 1.0, node, number, 1)


def add(outbox, *messages, on_shown=None):
    return [outbox.add(message.encode(), message, on_shown) for message in messages]


def test_message_that_comes_back_was_due_once():
    outbox = Outbox()
    add(outbox, said(1), said(2))
    assert outbox.take_back(said(1))
    assert not outbox.take_back(said(1))
    assert outbox.take_back(said(2))
    assert len(outbox) == 0


def test_messages_before_one_that_comes_back_are_lost_and_settled():
    outbox, settled = Outbox(), []
    for number in range(1, 4):
        add(outbox, said(number), on_shown=lambda number=number: settled.append(number))
    assert outbox.take_back(said(2))
    assert settled == [1, 2]
    assert outbox.export() == [(said(3).encode().decode(), False)]


def test_message_of_another_process_is_not_due():
    outbox = Outbox()
    add(outbox, said(1))
    assert not outbox.take_back(said(7, node="elsewhere"))
    assert len(outbox) == 1


def test_messages_of_the_process_before_come_back_on_their_own_numbers():
    outbox = Outbox()
    add(outbox, said(1000, node="before"), said(1))
    assert outbox.take_back(said(1000, node="before"))
    assert outbox.export() == [(said(1).encode().decode(), False)]


def test_message_is_due_although_what_waits_for_it_publishes_another_one():
    outbox = Outbox()
    add(outbox, said(1), on_shown=lambda: add(outbox, said(2)))
    assert outbox.take_back(said(1))
    assert outbox.export() == [(said(2).encode().decode(), False)]


def test_echoed_messages_are_known_after_they_have_come_back():
    outbox = Outbox()
    for sent in add(outbox, said(2), said(3)):
        outbox.note_echo(sent)
    add(outbox, said(4))
    for number in range(2, 5):
        outbox.take_back(said(number))
    messages = [said(number) for number in range(1, 6)]
    assert outbox.without_echoed(messages) == [said(1), said(4), said(5)]
    assert not outbox.was_echoed(said(2, node="elsewhere"))


def test_callback_waits_for_the_last_message_unless_that_was_echoed():
    outbox, called = Outbox(), []
    outbox.when_shown(lambda: called.append("nothing"))
    first, second = add(outbox, said(1), said(2))
    outbox.when_shown(lambda: called.append("second"))
    assert called == ["nothing"]
    outbox.note_echo(first)
    first.settle()
    assert called == ["nothing"]
    outbox.note_echo(second)
    second.settle()
    outbox.when_shown(lambda: called.append("echoed"))
    assert called == ["nothing", "second", "echoed"]


def test_callback_is_called_once_when_the_messages_may_be_lost():
    outbox, called = Outbox(), []
    add(outbox, said(1), on_shown=lambda: called.append(1))
    outbox.settle_all()
    outbox.take_back(said(1))
    assert called == [1]
