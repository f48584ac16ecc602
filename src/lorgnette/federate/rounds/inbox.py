"""The updates of one round: checked as they come in, and against each other at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.rounds.round_events import Answered, NotUsed, RoundListener
from lorgnette.federate.rounds.transport import Reply
from lorgnette.federate.wire.codec import Refused
from lorgnette.federate.wire.messages import Received, Work, change_norm, decode_update

MOST_CHANGE = 1e3
"""An update is refused if the norm of its change exceeds this many times (1 + the norm of what was sent)."""
MOST_OF_MEDIAN = 100.0
"""It is also refused above this many times the median change of its round, if three or more came in."""


class Counted(NamedTuple):
    """An update that counts."""

    received: Received
    norm: float
    """L2 norm of what it changes."""
    size: int
    """Bytes of its message."""
    seconds: float


class Inbox:
    """Takes the replies of a round.

    Args:
        round: from 1.
        work: what each client that was asked was sent.
        base: digest of the base.
        emit: called for every update, used or not.
    """

    def __init__(self, round: int, work: Mapping[str, Work], base: str, emit: RoundListener):
        self.round, self.work, self.base, self._emit = round, work, base, emit
        self.counted: dict[str, Counted] = {}
        self.refused: dict[str, str] = {}

    def take(self, reply: Reply) -> bool:
        """Whether this reply is used; if not, the reason is emitted and kept in `refused`."""
        name = reply.client
        if name not in self.work or name in self.counted:  # what it sent before stays
            self._emit(NotUsed(self.round, name, "it was not asked, or has answered before"))
            return False
        try:
            if reply.error:
                raise Refused(reply.error)
            work = self.work[name]
            received = decode_update(reply.data, work, self.base)
            norm = change_norm(received.state, work.state)
            limit = MOST_CHANGE * (1 + change_norm(work.state, _zero(work.state)))
            if not norm <= limit:
                raise Refused(f"its update has the norm {norm:.3g}; up to {limit:.3g} is taken")
        except Refused as error:
            self._refuse(name, str(error))
            return False
        self.refused.pop(name, None)
        self.counted[name] = Counted(received, norm, len(reply.data), reply.seconds)
        self._emit(
            Answered(
                self.round, name, received.samples, len(reply.data), received.loss, reply.seconds, received.metrics
            )
        )
        return True

    def close(self) -> None:
        """Compare the updates with each other once all are in."""
        if len(self.counted) < 3:
            return
        median = float(np.median([one.norm for one in self.counted.values()]))
        for name in [name for name, one in self.counted.items() if one.norm > MOST_OF_MEDIAN * median > 0]:
            times = self.counted.pop(name).norm / median
            self._refuse(name, f"its update is {times:.3g} times as large as the median of the round")

    def _refuse(self, name: str, reason: str) -> None:
        self.refused[name] = reason
        self._emit(NotUsed(self.round, name, reason))


def _zero(state: AdapterState) -> AdapterState:
    factors = {name: type(p)(p.A * 0, p.B * 0) for name, p in state.factors.items()}
    return replace(state, factors=factors, tensors={name: tensor * 0 for name, tensor in state.tensors.items()})
