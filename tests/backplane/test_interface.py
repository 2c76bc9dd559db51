"""Both engines under the same tests: topics, limits, presence, the end."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import Reactor, UsageError
from reactor.backplane import BackplaneState, LocalBackplane
from reactor.testing import MemoryReactor


class Heard:
    """A subscriber that records messages and gaps."""

    def __init__(self):
        self.events = []

    def message(self, topic, data):
        self.events.append(data)

    def gap(self, topic, missed):
        self.events.append(missed)


def subscribed(backplane, topic="topic"):
    heard = Heard()
    heard.subscription = backplane.subscribe(topic, heard.message, heard.gap)
    return heard


def test_subscriber_gets_what_is_published_after_it_in_order(anywhere):
    backplane = anywhere.node()
    assert backplane.publish("topic", b"before")
    heard = subscribed(backplane)
    sent = [b"%d" % number for number in range(200)]
    for data in sent:
        assert backplane.publish("topic", data)
        assert backplane.publish("other", data)
    assert heard.events == []  # never from within a call
    anywhere.spin(lambda: len(heard.events) >= 200)
    assert heard.events == sent
    anywhere.spin(lambda: not backplane.stats().queued)
    stats = backplane.stats()
    assert (stats.published, stats.acknowledged, stats.received) == (401, 401, 200)
    assert (stats.topics, stats.subscriptions, stats.missed, stats.unknown_gaps) == (1, 1, 0, 0)


def test_any_bytes_and_any_name_pass(anywhere):
    backplane = anywhere.node()
    heard = subscribed(backplane, "räum 1 \r\n$")
    for data in (b"", b" ", b"\r\n$5\r\n", bytes(range(256)), b"x" * 300_000):
        backplane.publish("räum 1 \r\n$", data)
    anywhere.spin(lambda: len(heard.events) == 5)
    assert heard.events == [b"", b" ", b"\r\n$5\r\n", bytes(range(256)), b"x" * 300_000]


def test_several_subscribers_of_a_topic_each_get_every_message(anywhere):
    backplane = anywhere.node()
    one, two = subscribed(backplane), subscribed(backplane)
    backplane.publish("topic", b"1")
    anywhere.spin(lambda: two.events)
    one.subscription.cancel()
    one.subscription.cancel()
    backplane.publish("topic", b"2")
    anywhere.spin(lambda: len(two.events) == 2)
    assert (one.events, two.events) == ([b"1"], [b"1", b"2"])
    assert not one.subscription.active
    assert "cancelled" in repr(one.subscription)


def test_a_topic_can_be_left_and_entered_again_at_once(anywhere):
    backplane = anywhere.node()
    for number in range(5):
        heard = subscribed(backplane)
        backplane.publish("topic", b"%d" % number)
        if number < 4:
            heard.subscription.cancel()
    anywhere.spin(lambda: heard.events)
    assert heard.events == [b"4"]
    backplane.publish("topic", b"5")
    anywhere.spin(lambda: len(heard.events) == 2)
    heard.subscription.cancel()
    assert backplane.stats().topics == 0


def test_subscription_can_be_cancelled_and_made_within_a_message(anywhere):
    backplane = anywhere.node()
    other = Heard()

    def once(topic, data):
        subscription.cancel()
        backplane.subscribe(topic, other.message)
        backplane.publish(topic, b"next")

    subscription = backplane.subscribe("topic", once)
    backplane.publish("topic", b"first")
    anywhere.spin(lambda: other.events)
    assert other.events == [b"next"]


def test_what_a_subscriber_raises_is_reported_and_costs_no_message(anywhere, errors):
    backplane = anywhere.node()

    def fail(topic, data):
        raise RuntimeError("a bug")

    backplane.subscribe("topic", fail)
    heard = subscribed(backplane)
    backplane.publish("topic", b"1")
    anywhere.spin(lambda: heard.events)
    exc, callback, _ = errors.take()
    assert str(exc) == "a bug"
    assert callback == "on_message of topic 'topic'"


def test_messages_above_the_limit_are_refused_and_counted(anywhere, caplog):
    backplane = anywhere.node(max_message=10)
    heard = subscribed(backplane)
    with caplog.at_level(logging.WARNING):
        assert not backplane.publish("topic", b"x" * 11)
    assert backplane.publish("topic", b"x" * 10)
    anywhere.spin(lambda: heard.events)
    assert heard.events == [b"x" * 10]
    assert backplane.stats().refused == {"too large": 1}
    assert "too large" in caplog.text


def test_messages_above_the_bound_of_the_queue_are_refused_and_counted(anywhere):
    backplane = anywhere.node(max_queued=25)
    heard = subscribed(backplane)
    assert [backplane.publish("topic", b"x" * 10) for _ in range(4)] == [True, True, False, False]
    assert backplane.stats().queued_bytes == 20
    assert backplane.stats().refused == {"queue full": 2}
    anywhere.spin(lambda: not backplane.stats().queued and len(heard.events) == 2)
    assert backplane.publish("topic", b"again")
    anywhere.spin(lambda: len(heard.events) == 3)


def test_number_of_queued_messages_is_bounded_too(anywhere):
    backplane = anywhere.node(max_queued=128 * 1024)
    assert [backplane.publish("topic", b"") for _ in range(2049)] == [True] * 2048 + [False]
    assert backplane.stats().refused == {"queue full": 1}
    anywhere.spin(lambda: not backplane.stats().queued)
    assert backplane.publish("topic", b"")


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["publish", "publish", "publish", "subscribe", "cancel", "tick"]),
            st.sampled_from("ab"),
        ),
        max_size=40,
    )
)
def test_any_use_is_as_the_model_says(anywhere, steps):
    """Each subscriber gets a run of its topic's messages, with all that were published while it was one."""
    backplane = anywhere.nodes[0] if anywhere.nodes else anywhere.node()
    run = len(anywhere.steps)  # topics of this example alone
    logs, current, all_of_them = {"a": [], "b": []}, {"a": [], "b": []}, []
    for step, topic in [*steps, ("publish", "a"), ("publish", "b")]:
        anywhere.steps.append(step)
        if step == "publish":
            logs[topic].append(b"%d" % len(logs[topic]))
            assert backplane.publish(f"{topic}{run}", logs[topic][-1])
        elif step == "subscribe":
            heard = subscribed(backplane, f"{topic}{run}")
            heard.log, heard.since = logs[topic], len(logs[topic])
            current[topic].append(heard)
            all_of_them.append(heard)
        elif step == "cancel" and current[topic]:
            heard = current[topic].pop(0)
            heard.subscription.cancel()
            heard.cancelled = list(heard.events)
        else:
            anywhere.reactor.run_once(0)
    for topic, readers in current.items():
        anywhere.spin(lambda t=topic, rs=readers: all(r.events and r.events[-1] == logs[t][-1] for r in rs))
        for heard in readers:
            assert heard.events == heard.log[int(heard.events[0]) :]
            assert int(heard.events[0]) <= heard.since
            heard.subscription.cancel()
    for heard in all_of_them:
        if hasattr(heard, "cancelled"):
            assert heard.events == heard.cancelled
            first = int(heard.events[0]) if heard.events else 0
            assert heard.events == heard.log[first : first + len(heard.events)]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda b: b.publish("topic", "text"), TypeError),
        (lambda b: b.publish(b"topic", b""), TypeError),
        (lambda b: b.publish("", b""), ValueError),
        (lambda b: b.subscribe("", print), ValueError),
        (lambda b: b.subscribe("topic", None), TypeError),
        (lambda b: b.subscribe("topic", print, "gap"), TypeError),
        (lambda b: b.take("", "name", print), ValueError),
        (lambda b: b.take("group", "", print), ValueError),
        (lambda b: b.take("group", "name", None), TypeError),
        (lambda b: b.take("group", "name", print, on_lost=1), TypeError),
        (lambda b: b.take("group", "name", print, token=1), TypeError),
        (lambda b: b.take("group", "name", print, token="\udcff"), ValueError),
        (lambda b: b.take("group", "\udcff", print), ValueError),
        (lambda b: b.take("\udcff", "name", print), ValueError),
        (lambda b: b.publish("\udcff", b""), ValueError),
        (lambda b: b.subscribe("\udcff", print), ValueError),
        (lambda b: b.read_last("\udcff", 1, print), ValueError),
        (lambda b: b.members("\udcff", print), ValueError),
        (lambda b: b.members("", print), ValueError),
        (lambda b: b.members("group", None), TypeError),
    ],
)
def test_invalid_arguments_are_refused_and_cost_nobody_else_anything(anywhere, call, error):
    backplane = anywhere.node()
    heard = subscribed(backplane)
    with pytest.raises(error):
        call(backplane)
    backplane.publish("topic", b"after it")
    anywhere.spin(lambda: heard.events == [b"after it"] and not backplane.stats().queued)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("topic", lambda b, name: b.publish(name, b"")),
        ("topic", lambda b, name: b.subscribe(name, print)),
        ("topic", lambda b, name: b.read_last(name, 1, lambda found: None)),
        ("group", lambda b, name: b.members(name, lambda found: None)),
        ("group", lambda b, name: b.take(name, "name", lambda taken: None)),
        ("name", lambda b, name: b.take("group", name, lambda taken: None)),
        ("token", lambda b, name: b.take("group", "name", lambda taken: None, token=name)),
    ],
)
def test_names_are_bounded(anywhere, what, call):
    backplane = anywhere.node()
    call(backplane, "ü" * 256)
    with pytest.raises(ValueError, match=f"{what} must be at most 512 bytes in UTF-8, not 514: 'ü") as caught:
        call(backplane, "ü" * 257)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_message": 0}, ValueError),
        ({"max_message": "1"}, TypeError),
        ({"max_queued": True}, TypeError),
        ({"presence_ttl": 0}, ValueError),
    ],
)
def test_invalid_options_are_refused(anywhere, options, error):
    with pytest.raises(error, match=next(iter(options))):
        anywhere.node(**options)


def test_close_ends_everything_and_is_said_to_who_goes_on(anywhere):
    backplane = anywhere.node()
    heard = subscribed(backplane)
    membership = backplane.take("group", "name", lambda taken: None)
    backplane.close()
    backplane.close()
    assert backplane.state is BackplaneState.CLOSED
    assert not heard.subscription.active
    assert not backplane.publish("topic", b"late")
    assert backplane.stats().refused == {"closed": 1}
    assert backplane.stats().names == 0
    membership.give_back()
    with pytest.raises(UsageError, match="is closed"):
        backplane.subscribe("topic", heard.message)
    with pytest.raises(UsageError, match="is closed"):
        backplane.take("group", "name", print)
    with pytest.raises(UsageError, match="is closed"):
        backplane.members("group", print)


def test_close_sends_what_was_published_before(anywhere):
    publisher = anywhere.node()
    other = publisher if anywhere.kind == "local" else anywhere.node()
    heard = subscribed(other)
    ready = []
    other.members("group", ready.append)
    anywhere.spin(lambda: ready)
    publisher.publish("topic", b"last")
    if other is not publisher:
        publisher.close()
    anywhere.spin(lambda: heard.events)
    assert heard.events == [b"last"]


def test_backplane_closes_with_its_reactor_and_as_a_context_manager():
    with MemoryReactor() as reactor, LocalBackplane(reactor) as backplane:
        assert backplane.state is BackplaneState.UP
    assert backplane.state is BackplaneState.CLOSED
    with Reactor() as reactor:
        backplane = LocalBackplane(reactor)
        backplane.publish("topic", b"1")
    assert backplane.state is BackplaneState.CLOSED
    assert backplane.stats().unsent == 1
    with pytest.raises(UsageError):
        LocalBackplane(reactor)


# Presence


def take(world, backplane, name="name", group="group", **options):
    answers = []
    membership = backplane.take(group, name, answers.append, **options)
    assert membership.held is None
    world.spin(lambda: answers)
    assert membership.held is answers[0]
    return membership


def members(world, backplane, group="group"):
    answers = []
    backplane.members(group, answers.append)
    world.spin(lambda: answers)
    return answers[0]


def test_a_name_is_taken_once_and_free_when_it_is_given_back(anywhere):
    backplane = anywhere.node()
    one = take(anywhere, backplane)
    assert one.held
    assert not take(anywhere, backplane).held
    assert take(anywhere, backplane, "other").held
    assert take(anywhere, backplane, group="another group").held
    assert members(anywhere, backplane) == ["name", "other"]
    assert backplane.stats().names == 3
    one.give_back()
    one.give_back()
    assert members(anywhere, backplane) == ["other"]
    assert take(anywhere, backplane).held
    assert members(anywhere, backplane, "nobody's") == []


def test_a_name_that_is_handed_over_is_kept_for_its_token(anywhere):
    backplane = anywhere.node()
    token = take(anywhere, backplane).hand_over()
    assert not take(anywhere, backplane).held
    assert members(anywhere, backplane) == ["name"]
    again = take(anywhere, backplane, token=token)
    assert again.held
    assert again.token == token
    assert "name" in repr(again)
    again.give_back()
    assert members(anywhere, backplane) == []


def test_a_name_that_is_handed_over_and_not_taken_gets_free(anywhere):
    options = {} if anywhere.kind == "local" else {"deadline": 0.1}
    backplane = anywhere.node(presence_ttl=0.2, **options)
    take(anywhere, backplane).hand_over()
    answers = [["name"]]

    def is_free():
        if answers[-1] == []:
            return True
        if answers[-1] is not None:
            answers.append(None)
            backplane.members("group", lambda names: answers.__setitem__(-1, names))
        return False

    anywhere.spin(is_free)
    assert take(anywhere, backplane).held


def test_giving_back_before_the_answer_is_allowed(anywhere):
    backplane = anywhere.node()
    answers = []
    backplane.take("group", "name", answers.append).give_back()
    assert take(anywhere, backplane).held
    assert answers == []


def test_the_last_messages_can_be_read_without_a_subscription(anywhere):
    options = {"history": 50} if anywhere.kind == "local" else {}
    writer = anywhere.node(**options)
    reader = writer if anywhere.kind == "local" else anywhere.node()
    answers = []
    reader.read_last("topic", 3, answers.append)
    assert answers == []  # never from within a call
    anywhere.spin(lambda: answers)
    for number in range(10):
        writer.publish("topic", b"%d" % number)
    anywhere.spin(lambda: not writer.stats().queued)
    for count in (3, 10**30):
        reader.read_last("topic", count, answers.append)
    anywhere.spin(lambda: len(answers) == 3)
    assert answers == [[], [b"7", b"8", b"9"], [b"%d" % number for number in range(10)]]
