"""`LocalBackplane`: what is not the same elsewhere."""

from reactor.backplane import BackplaneState, LocalBackplane
from reactor.testing import MemoryReactor


def test_a_reserved_name_is_free_after_its_time_and_no_timer_outlasts_it():
    with MemoryReactor() as reactor, LocalBackplane(reactor, presence_ttl=5) as backplane:
        answers = []
        membership = backplane.take("group", "name", answers.append)
        reactor.settle()
        token = membership.hand_over()
        reactor.advance(4.9)
        backplane.take("group", "name", answers.append)
        reactor.advance(0.2)
        backplane.take("group", "name", answers.append)
        reactor.settle()
        assert answers == [True, False, True]
        backplane.take("group", "other", answers.append).hand_over()
        backplane.take("group", "third", answers.append, token=token)
        reactor.settle()
        backplane.close()
        assert repr(backplane) == "<LocalBackplane>"
        assert backplane.state is BackplaneState.CLOSED
        assert backplane.stats().names == 0
        reactor.run_out()


def test_messages_of_a_tick_that_is_not_followed_by_another_are_counted_as_unsent():
    with MemoryReactor() as reactor:
        backplane = LocalBackplane(reactor)
        backplane.publish("topic", b"1")
        backplane.close()
        reactor.settle()
        assert backplane.stats().unsent == 1
        assert backplane.stats().acknowledged == backplane.stats().queued_bytes == 0


def test_the_history_is_bounded_by_messages_and_age_also_of_topics_that_nobody_uses():
    with MemoryReactor() as reactor, LocalBackplane(reactor, history=2, history_age=10) as backplane:
        answers = []

        def last(topic):
            backplane.read_last(topic, 5, answers.append)
            reactor.settle()
            return answers.pop()

        for data in (b"1", b"2", b"3"):
            backplane.publish("old", data)
        assert last("old") == [b"2", b"3"]
        reactor.advance(6)
        backplane.publish("new", b"4")
        assert last("old") == [b"2", b"3"]
        reactor.advance(6)
        assert (last("old"), last("new")) == ([], [b"4"])
        backplane.publish("new", b"5")
        assert list(backplane._histories) == ["new"]


def test_the_history_is_bounded_by_topics():
    with MemoryReactor() as reactor, LocalBackplane(reactor, history=2) as backplane:
        for number in range(300):
            backplane.publish(f"{number}", b"x")
        answers = []
        for topic in ("43", "44", "299"):
            backplane.read_last(topic, 1, answers.append)
        reactor.settle()
        assert answers == [[], [b"x"], [b"x"]]
