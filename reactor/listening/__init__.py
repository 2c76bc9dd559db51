"""Listening sockets: bind, accept, the limits of a listener, and drains."""
