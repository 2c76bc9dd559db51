"""One connected socket: its states, how it receives and sends, its deadlines, and how it ends."""

from reactor.connection.connection import Connection

__all__ = ["Connection"]
