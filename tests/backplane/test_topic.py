"""The position in a topic: live messages, the history, and what neither has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.backplane.topic import KEPT, KEPT_BYTES, Live, Read, Topic, offset_of


def ident(offset):
    return b"5-%d" % offset


def topic_at(offset=0, epoch=b"e"):
    topic = Topic("name", b"key", subscribed=True)
    topic.start(Read(epoch, ident(offset), b"", ident(0), []))
    topic.go_live()
    return topic


def caught_up(topic, read, *, complete=True):
    events = []
    topic.catch_up(read, complete=complete, on_message=events.append, on_gap=events.append)
    return events


def history(head, first=1, epoch=b"e", before=b"", base=0):
    messages = [(ident(offset), b"%d" % offset) for offset in range(first, head + 1)]
    return Read(epoch, ident(head), before, ident(base), messages)


def test_next_message_is_delivered_and_an_earlier_one_is_a_duplicate():
    topic = topic_at(3)
    assert topic.receive(b"e", ident(4), b"") is Live.DELIVER
    assert topic.receive(b"e", ident(4), b"") is Live.DUPLICATE
    assert topic.receive(b"e", ident(2), b"") is Live.DUPLICATE
    assert topic.offset == offset_of(topic.last) == 4


def test_after_a_hole_messages_are_kept_until_the_history_is_read():
    topic = topic_at(3)
    assert topic.receive(b"e", ident(5), b"5") is Live.READ
    assert topic.wants_history()
    topic.reading = True
    assert not topic.wants_history()
    assert topic.receive(b"e", ident(6), b"6") is Live.KEPT
    assert caught_up(topic, history(5)) == [b"4", b"5"]
    kept = topic.go_live()
    assert [topic.receive(*each) for each in kept] == [Live.DUPLICATE, Live.DELIVER]


def test_more_than_a_bound_are_not_kept_but_read_again():
    topic = topic_at()
    for offset in range(2, KEPT + 3):
        topic.receive(b"e", ident(offset), b"")
    assert topic.again
    assert len(topic.go_live()) == KEPT


def test_bytes_of_what_is_kept_are_bounded():
    topic, size = topic_at(), KEPT_BYTES // 4
    assert topic.receive(b"e", ident(2), bytes(size)) is Live.READ
    for offset in range(3, 6):
        assert topic.receive(b"e", ident(offset), bytes(size)) is Live.KEPT
    assert not topic.again
    assert topic.receive(b"e", ident(6), b"x") is Live.KEPT
    assert topic.again
    assert len(topic.go_live()) == 4


def test_another_epoch_is_read():
    topic = topic_at(3)
    assert topic.receive(b"other", ident(4), b"") is Live.READ
    topic.fall_behind()
    assert not topic.live


@pytest.mark.parametrize("wrong", [b"", b"5", b"5-", b"5-x"])
def test_a_wrong_id_is_refused(wrong):
    with pytest.raises(ValueError, match="int"):
        topic_at().receive(b"e", wrong, b"")


def test_what_was_trimmed_is_a_gap_of_its_size():
    assert caught_up(topic_at(3), history(9, first=8)) == [4, b"8", b"9"]
    assert caught_up(topic_at(3), history(9, first=10)) == [6]
    assert caught_up(topic_at(3), history(3)) == []


def test_a_part_of_the_history_is_no_gap():
    topic = topic_at(3)
    part = history(9)
    assert caught_up(topic, Read(b"e", part.head, b"", ident(0), part.messages[:5]), complete=False) == [
        b"4", b"5",
    ]  # fmt: skip
    assert caught_up(topic, part) == [b"6", b"7", b"8", b"9"]


def test_a_new_epoch_goes_on_where_the_one_before_has_ended():
    read = history(6, epoch=b"new", before=b"e", base=5)
    assert caught_up(topic_at(3), read) == [b"4", b"5", None, b"6"]


def test_a_gap_of_a_new_epoch_is_in_its_place_over_parts():
    topic, read = topic_at(3), history(6, epoch=b"new", before=b"e", base=5)
    part = Read(read.epoch, read.head, read.before, read.base, read.messages[:4])
    assert caught_up(topic, part, complete=False) == [b"4"]
    assert caught_up(topic, read) == [b"5", None, b"6"]


def test_a_new_epoch_without_messages_is_a_gap():
    assert caught_up(topic_at(3), history(3, epoch=b"new", before=b"e", base=3)) == [None]


def test_a_broker_behind_the_reader_is_an_unknown_gap_and_nothing_later_is_left_out():
    read = history(6, first=1, epoch=b"new", before=b"e", base=5)
    assert caught_up(topic_at(8), read) == [None, b"6"]
    assert caught_up(topic_at(8), history(2, epoch=b"third", before=b"second")) == [None, b"1", b"2"]
    topic = topic_at(8)
    assert caught_up(topic, history(2)) == [None]
    assert topic.offset == 2


def later(offset):
    return b"6-%d" % offset


def test_a_broker_that_has_lost_messages_without_a_new_epoch_is_found_out_by_their_times():
    topic = topic_at(8)
    assert topic.receive(b"e", later(8), b"other") is Live.READ
    assert caught_up(topic, Read(b"e", later(8), b"", ident(0), [(later(8), b"other")])) == [None, b"other"]
    topic = topic_at(8)
    messages = [(later(offset), b"%d" % offset) for offset in range(6, 11)]
    assert caught_up(topic, Read(b"e", later(10), b"", ident(0), messages)) == [
        None, b"6", b"7", b"8", b"9", b"10",
    ]  # fmt: skip
    assert topic.receive(b"e", later(10), b"10") is Live.DUPLICATE
    assert topic.receive(b"e", ident(8), b"8") is Live.DUPLICATE
    assert topic.receive(b"e", later(11), b"11") is Live.DELIVER


@pytest.mark.parametrize("head", [7, 8, 9])
def test_a_broker_that_has_lost_messages_and_whose_clock_is_behind_is_found_out(head):
    topic = topic_at(8)
    read = Read(b"e", b"4-%d" % head, b"", ident(0), [])
    assert caught_up(topic, read) == [None]
    assert topic.receive(b"e", b"4-%d" % (head + 1), b"") is Live.DELIVER


def test_lost_connections_are_noted():
    topic = topic_at(3)
    topic.receive(b"e", ident(5), b"")
    topic.reading = topic.again = True
    topic.lost_live()
    topic.lost_history()
    flags = topic.subscribed, topic.live, topic.reading, topic.again
    assert not any(flags)
    assert not topic.wants_history()  # not before it is subscribed
    assert Topic("name", b"key").wants_history()
    assert topic.go_live() == []


@given(
    lost=st.sets(st.integers(1, 30)),
    reads=st.lists(st.integers(1, 30), max_size=5),
    trimmed=st.integers(0, 30),
)
def test_every_message_is_delivered_once_and_in_order_or_counted(lost, reads, trimmed):
    """Live messages of which some are lost; the history is read whenever it is wanted, or loses its start."""
    topic, events = topic_at(), []
    for offset in range(1, 31):
        if offset not in lost and topic.receive(b"e", ident(offset), b"%d" % offset) is Live.DELIVER:
            events.append(b"%d" % offset)
        if offset in reads and topic.wants_history():
            events += caught_up(topic, history(offset, first=min(trimmed, offset) + 1))
            for kept in topic.go_live():
                if topic.receive(*kept) is Live.DELIVER:
                    events.append(kept[2])
    events += caught_up(topic, history(30, first=trimmed + 1))
    position = 0
    for event in events:
        position += event if isinstance(event, int) else 1
        assert isinstance(event, int) or event == b"%d" % position
    assert position == 30
