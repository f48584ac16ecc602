"""What whoever watches a federation reads."""

from __future__ import annotations

import io

from lorgnette.federate.rounds.round_events import RoundsStarted
from lorgnette.federate.rounds.round_report import ProgressLines


def test_what_the_model_could_before_is_told_first_and_only_at_the_start():
    at_start, later = io.StringIO(), io.StringIO()
    ProgressLines(at_start)(RoundsStarted(0, 5, ["north", "south"], {"metrics": {"accuracy": 0.25}}))
    said = at_start.getvalue().splitlines()
    assert said[0] == "2 clients, 5 rounds."
    assert len(said) == 2
    assert "accuracy" in said[1]
    assert "0.25" in said[1]
    ProgressLines(later)(RoundsStarted(3, 5, ["north"], {"metrics": {"accuracy": 0.25}}))
    assert later.getvalue().splitlines() == ["1 clients, 5 rounds, going on after round 3."]
