"""Pairs of the photo benchmark are damaged alike each time; its table has means over seeds, beside the frozen base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.benchmarks.scripts import imported

from lorgnette.images import read_image
from lorgnette.images.damage import Damage
from lorgnette.images.file import Image, write_image
from lorgnette.images.scenes import drawn


@pytest.fixture(scope="module")
def script() -> Any:
    return imported("photo_adapter")


def test_pairs_are_halves_and_the_same_each_time(script: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", Image(drawn("lines", 1, (41, 52))))
    damage = Damage(blur=(1, 1), quality=(30, 60))
    for name in ("one", "two"):
        script.pairs(tmp_path / "in", tmp_path / name, damage)
    large, small = (read_image(tmp_path / "one" / kind / "a.png").pixels for kind in ("hr", "lr"))
    assert large.shape[:2] == (40, 52)
    assert small.shape[:2] == (20, 26)
    np.testing.assert_array_equal(large, read_image(tmp_path / "in" / "a.png").pixels[:40])
    np.testing.assert_array_equal(small, read_image(tmp_path / "two" / "lr" / "a.png").pixels)


def test_gain_and_drift_are_differences_from_the_frozen_network(script: Any) -> None:
    def line(way: str, seed: int, damaged: float, clean: float) -> dict[str, Any]:
        return {"way": way, "seed": seed, "trained": 7, "minutes": 1.0, "damaged": damaged, "clean": clean}

    lines = [line("frozen", 0, 25.0, 33.0), line("adapter", 0, 26.0, 32.0), line("adapter", 1, 26.4, 31.0)]
    row = script.shown(lines).splitlines()[-1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()][2:6] == ["26.20", "+1.20 ± 0.28", "31.50", "-1.50 ± 0.71"]
