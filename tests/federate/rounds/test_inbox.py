"""What comes back in a round, and what is used of it."""

from __future__ import annotations

from typing import Any

from lorgnette.federate.rounds.inbox import Inbox
from lorgnette.federate.rounds.round_events import NotUsed
from lorgnette.federate.rounds.transport import Reply


def test_who_was_not_asked_and_who_sends_no_message_is_not_used():
    told: list[Any] = []
    work: Any = {"north": None}
    inbox = Inbox(3, work, "base", told.append)
    assert inbox.take(Reply("stranger", b"x")) is False
    assert inbox.take(Reply("north", b"", error="its disk is full")) is False
    assert told == [
        NotUsed(3, "stranger", "it was not asked, or has answered before"),
        NotUsed(3, "north", "its disk is full"),
    ]
    assert inbox.refused == {"north": "its disk is full"}
    assert not inbox.counted
