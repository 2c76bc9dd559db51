"""`Message`: what the members of a room are shown, as it is published to the room's topic.

It is JSON: the name of a speaker is a field of its own, so that no line looks like a notice, or like a line
of somebody else.
"""

from __future__ import annotations

import json

import attrs

__all__ = ["JOINED", "LEFT", "RENAMED", "SAID", "Message", "Position"]

#: The kinds of messages; `text` is the line, nothing, the way in which the member has left, the new name.
SAID, JOINED, LEFT, RENAMED = KINDS = ("said", "joined", "left", "renamed")

#: A message by its process and number, as a place in the order of the topic.
Position = tuple[str, int]


@attrs.frozen
class Message:
    """A line, or a notice about a member.

    kind: one of those above. name: the member's, at that time. text: as the kind says. room: its name.
    at: seconds since the epoch. node: the process that has published it. number: rises with each message of
    that process. speaker: the member's number there.

    >>> Message(RENAMED, "guest1", "ann", "lobby", 1.0, "", 1, 1).line
    '* guest1 is now ann'
    """

    kind: str
    name: str
    text: str
    room: str
    at: float
    node: str
    number: int
    speaker: int

    def encode(self) -> bytes:
        """Return the message as bytes."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Return the message of `encode`. Raises ValueError if it is none.

        Further fields, which a later version may add, are ignored.
        """
        try:
            fields = json.loads(data)
            values = [fields[name] for name in _FIELDS]
        except (ValueError, TypeError, KeyError) as exc:
            raise ValueError(f"not a message of a chat: {data[:100]!r}") from exc
        valid = all(isinstance(value, kind) for value, kind in zip(values, _FIELDS.values(), strict=True))
        if not valid or not all(value.isprintable() for value in values[:4]):
            raise ValueError(f"not a message of a chat: {data[:100]!r}")
        return cls(*values)

    @property
    def position(self) -> Position:
        """Its process and number: the same each time that it is published."""
        return self.node, self.number

    @property
    def notice(self) -> str | None:
        """The text of a notice; None for a line that was said, and for a kind of a later version."""
        match self.kind:
            case "joined":
                return f"{self.name} has joined {self.room}"
            case "left":
                return f"{self.name} {self.text}"
            case "renamed":
                return f"{self.name} is now {self.text}"
        return None

    @property
    def line(self) -> str:
        """The message as a line of text."""
        notice = self.notice
        return f"{self.name}: {self.text}" if notice is None else f"* {notice}"


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "kind": str, "name": str, "text": str, "room": str,
    "at": (int, float), "node": str, "number": int, "speaker": int,
}  # fmt: skip
