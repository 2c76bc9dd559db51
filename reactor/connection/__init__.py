"""A connected stream socket: its states, receiving, sending, deadlines and closing."""

from reactor.connection.connection import Connection

__all__ = ["Connection"]
