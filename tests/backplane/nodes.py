"""What several tests of nodes on a broker ask."""

from reactor import Reconnect
from reactor.backplane import BackplaneState

QUICK = Reconnect(first=0.01, max_delay=0.02)


def up(*nodes):
    return all(node.state is BackplaneState.UP for node in nodes)


def settled(*nodes):
    """Whether nothing is on its way: all is acknowledged, and every topic is followed live."""
    topics = [topic for node in nodes for topic in node._topics.values()]
    return up(*nodes) and not any(len(node._outbox) for node in nodes) and all(t.live for t in topics)


def seconds_until(network, condition, limit=60.0):
    start = network.clock()
    while not condition():
        network.advance(0.01)
        assert network.clock() - start < limit
    return network.clock() - start
