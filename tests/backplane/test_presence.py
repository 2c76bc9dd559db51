"""The names of nodes on a broker: unique, handed over, and free after the end of their owner."""

from reactor.backplane import BackplaneState
from tests.backplane.nodes import QUICK, seconds_until, up
from tests.backplane.test_interface import members, take


def test_names_are_unique_among_nodes_and_shown_on_all(world):
    one, two = world.node(), world.node()
    first = take(world, one, "ann")
    assert first.held
    assert not take(world, two, "ann").held
    assert take(world, two, "bob").held
    assert members(world, one) == members(world, two) == ["ann", "bob"]
    first.give_back()
    world.spin(lambda: members(world, two) == ["bob"])
    assert take(world, two, "ann").held


def test_closing_a_node_frees_its_names_at_once(world):
    one, two = world.node(), world.node()
    take(world, one, "ann")
    one.close()
    world.spin(lambda: members(world, two) == [])
    assert take(world, two, "ann").held


def test_what_an_answer_raises_is_reported_and_the_name_is_taken(world, errors):
    node = world.node()

    def fail(taken):
        raise RuntimeError("a bug")

    node.take("group", "ann", fail)
    world.spin(lambda: errors.seen)
    exc, callback, _ = errors.take()
    assert (str(exc), callback) == ("a bug", "on_result or on_lost of take")
    assert members(world, node) == ["ann"]


def test_a_name_is_handed_over_to_another_process(world):
    one, two = world.node(), world.node()
    token = take(world, one, "ann").hand_over()
    one.close()
    world.spin(lambda: one.state is BackplaneState.CLOSED and not one._open)
    assert members(world, two) == ["ann"]
    assert not take(world, two, "ann").held
    assert take(world, two, "ann", token=token).held
    assert members(world, two) == ["ann"]


def test_names_outlast_a_lost_connection_and_those_given_back_meanwhile_are_free(world):
    one, two = world.node(reconnect=QUICK), world.node()
    kept, left = take(world, one, "kept"), take(world, one, "left")
    one._commands.link.connection.abort()
    world.spin(lambda: one._commands.link is None)
    left.give_back()
    lost = []
    one.members("group", lost.append)
    world.spin(lambda: lost and up(one))
    assert lost == [None]
    world.spin(lambda: members(world, two) == ["kept"])
    assert kept.held
    assert not take(world, two, "kept").held


def test_names_of_a_node_that_was_held_up_are_freed_and_their_loss_is_reported(world):
    one, two = world.node(deadline=0.2, presence_ttl=0.3), world.node()
    lost = []
    membership = take(world, one, "ann", on_lost=lambda: lost.append("ann"))
    take(world, one, "bob", on_lost=lambda: lost.append("bob"))
    one._timer.cancel()  # a process that is stopped sends no heartbeats
    world.spin(lambda: members(world, two) == [])
    assert take(world, two, "ann").held
    one._beat()
    world.spin(lambda: lost)
    assert lost == ["ann"]
    assert membership.held is False
    world.spin(lambda: members(world, two) == ["ann", "bob"])


def test_a_name_that_is_taken_while_the_process_counts_as_dead_is_taken_when_it_is_back(world):
    node = world.node(deadline=0.2, presence_ttl=0.3)
    node._timer.cancel()  # a process that is stopped sends no heartbeats
    key = node._presence._node.decode()
    gone = []
    world.spin(lambda: node._commands.send(gone.append, "GET", key) or None in gone)
    assert take(world, node, "ann").held
    assert node._presence._node.decode() != key


def test_names_of_a_dead_node_are_free_within_the_deadline(network, far):
    _, make = far
    one, two = make(), make()
    answers = []
    one.take("group", "ann", answers.append)
    network.advance(3)
    network.partition("10.0.0.1", "10.0.0.2")
    two.take("group", "ann", answers.append)
    network.advance(5)
    assert answers == [True, False]

    def taken():
        two.take("group", "ann", answers.append)
        network.advance(0.1)
        return answers[-1]

    assert seconds_until(network, taken) <= 6
