"""The queue of messages that the broker has not acknowledged, against a broker of a few lines."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from reactor.backplane.outbox import ON_THE_WAY, ON_THE_WAY_BYTES, Outbox


def send(outbox, size, count):
    """Add messages, and send what may be sent; return how many."""
    for _ in range(count):
        outbox.add("topic", bytes(size))
    sent = 0
    while outbox.may_send and outbox.next():
        sent += 1
    return sent


def test_few_messages_and_bytes_are_on_their_way():
    outbox = Outbox()
    assert send(outbox, 0, 2 * ON_THE_WAY) == ON_THE_WAY
    outbox.acknowledge()
    assert send(outbox, 0, 0) == 1
    outbox.resume(1)
    assert send(outbox, 0, 0) == ON_THE_WAY
    outbox.clear()
    size = ON_THE_WAY_BYTES // 4
    assert send(outbox, size, 9) == 4
    outbox.acknowledge()
    assert send(outbox, size, 0) == 1
    outbox.resume(2)
    assert send(outbox, size, 0) == 4
    outbox.clear()
    assert send(outbox, 2 * ON_THE_WAY_BYTES, 2) == 1
    outbox.acknowledge()
    assert send(outbox, 0, 0) == 1


def test_messages_are_numbered_and_counted():
    outbox = Outbox(new_id=lambda: "me")
    assert outbox.next() is None
    outbox.add("a", b"12")
    outbox.add("b", b"345")
    assert (len(outbox), outbox.size) == (2, 5)
    assert outbox.next() == (1, "a", b"12")
    assert outbox.next() == (2, "b", b"345")
    outbox.acknowledge()
    assert (len(outbox), outbox.size, outbox.acknowledged) == (1, 3, 1)
    assert outbox.clear() == 1
    assert (len(outbox), outbox.size) == (0, 0)


def test_a_broker_that_has_forgotten_gets_another_publisher():
    names = count()
    outbox = Outbox(new_id=lambda: f"me{next(names)}")
    outbox.add("a", b"1")
    outbox.next()
    outbox.resume(None)
    assert outbox.publisher == "me0"  # it has acknowledged nothing yet
    outbox.next()
    outbox.acknowledge()
    outbox.resume(1)
    assert outbox.publisher == "me0"
    outbox.resume(0)
    assert outbox.publisher == "me1"


@given(st.lists(st.sampled_from(["add", "send", "execute", "acknowledge", "cut", "refuse"]), max_size=60))
def test_every_message_is_executed_once_and_in_order(steps):
    outbox = Outbox()
    last, executed, added = 0, [], 0
    wire, replies = [], 0  # of this connection

    def cut():
        nonlocal replies
        wire.clear()
        replies = 0
        outbox.resume(last)

    for step in [*steps, "cut", *["send", "execute", "acknowledge"] * 60]:
        if step == "add":
            added += 1
            outbox.add("topic", b"%d" % added)
        elif step == "send" and (message := outbox.next()) is not None:
            wire.append(message)
        elif step == "execute" and wire:
            number, _, data = wire.pop(0)
            assert number <= last + 1  # nothing is left out
            if number == last + 1:
                last = number
                executed.append(data)
            replies += 1
        elif step == "acknowledge" and replies:
            replies -= 1
            outbox.acknowledge()
        elif step in {"cut", "refuse"}:
            cut()
    assert executed == [b"%d" % number for number in range(1, added + 1)]
    assert len(outbox) == outbox.size == 0
