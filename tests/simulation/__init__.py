"""A server with its peers in one thread: network, clock and faults from one seed."""
