"""Messages of a chat: what is published, and what is not taken for a message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.apps.chat_message import JOINED, LEFT, RENAMED, SAID, Message

printable = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"]))
messages = st.builds(
    Message,
    kind=st.sampled_from([SAID, JOINED, LEFT, RENAMED, "of a later version"]),
    name=printable, text=printable, room=printable, at=st.floats(0, 1e10), node=printable,
    number=st.integers(0), speaker=st.integers(0),
)  # fmt: skip


@given(messages)
def test_message_is_what_was_encoded(message):
    assert Message.decode(message.encode()) == message


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [
        (SAID, "* bob has joined lobby", "ann: * bob has joined lobby"),
        (JOINED, "", "* ann has joined lobby"),
        (LEFT, "went to garden", "* ann went to garden"),
        (RENAMED, "bob", "* ann is now bob"),
    ],
)
def test_line_of_a_member_is_told_from_a_notice(kind, text, line):
    assert Message(kind, "ann", text, "lobby", 1.0, "n", 1, 1).line == line


GOOD = json.loads(Message(SAID, "ann", "hello", "lobby", 1.0, "n", 1, 1).encode())


def test_fields_of_a_later_version_are_ignored():
    assert Message.decode(json.dumps({**GOOD, "mood": "good"}).encode()).line == "ann: hello"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello", b"[]", b"1", b"\xff", b"{}",
        *(json.dumps({k: v for k, v in GOOD.items() if k != name}).encode() for name in GOOD),
        *(json.dumps({**GOOD, name: None}).encode() for name in GOOD),
        *(json.dumps({**GOOD, name: "a\r\n* b"}).encode() for name in ("name", "text", "room", "kind")),
    ],
)  # fmt: skip
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError, match="not a message of a chat"):
        Message.decode(data)
