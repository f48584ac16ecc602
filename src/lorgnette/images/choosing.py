"""Which adapter a picture wants, from what it looks like: small nets over `lorgnette.images.looks`. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from lorgnette.images.looks import MEASURES, looks

NOTHING, BASE = "nothing", "base"
"""Names of two choices that are no adapters: no network at all (bicubic, or the picture as it is), and the base."""
MARGIN = 0.1
"""dB by which a network must be expected to be better than `NOTHING`."""
LEAVE = 0.2
"""dB by which an adapter must be expected to be better than `BASE`, where that is better than `NOTHING`: what may be a
sound picture stays with the network that was made for sound ones."""
_FARTHEST = 4.0  # deviations; a picture unlike all that was learnt from counts as one at the edge of it


@dataclass(frozen=True)
class Choice:
    """What was chosen for a picture."""

    name: str
    """`NOTHING`, `BASE`, or the name of an adapter."""
    gains: dict[str, float]
    """What each that may be chosen is expected to bring over `NOTHING`, in dB."""
    seen: dict[str, float]
    """The measures of the picture, by name."""

    @property
    def network(self) -> str | None:
        """`BASE` or the name of an adapter; None for no network at all."""
        return None if self.name == NOTHING else self.name

    def __str__(self) -> str:
        if self.name == NOTHING:
            best = max(self.gains, key=self.gains.__getitem__)
            enough = f" enough ({best} {self.gains[best]:+.1f} dB)" if self.gains[best] > MARGIN else ""
            return f"no network: none is expected to help{enough}"
        others = f"; {BASE} {self.gains[BASE]:+.1f}" if self.name != BASE else ""
        called = "the base" if self.name == BASE else f"adapter {self.name}"
        return f"{called}: expected {self.gains[self.name]:+.1f} dB over no network{others}"


class Judge:
    """Expects how much each network brings, as several small nets do; the more they differ, the less is expected.

    The nets take the measures of a picture, standardised, and give dB over `NOTHING` for each name: two hidden layers
    with tanh. `tools/judge` trains them on pictures of which it is known what each network makes of them.

    Args:
        path: a safetensors file; its metadata has `names`, `measures`, and `doubt`, the share of the deviation between
            the nets that is taken off what they expect.
        for_grey: names that are not chosen for pictures with colours.
        least: dB over `NOTHING` that a name must be expected to bring, where that is more than `MARGIN`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        for_grey: Collection[str] = (),
        least: Mapping[str, float] = MappingProxyType({}),
    ):
        self._for_grey, self._least = set(for_grey), least
        with safe_open(Path(path), "np") as file:
            said = file.metadata()
            self.names: list[str] = json.loads(said["names"])
            if json.loads(said["measures"]) != list(MEASURES):
                raise ValueError(f"{path}: was learnt with other measures than those of this version")
            self.doubt = float(said["doubt"])
            self._tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118

    def __call__(self, pixels: NDArray[Any], scale: float = 1) -> Choice:
        """Choose for a picture, (H, W, 3) in [0, 1], that is to be enlarged by `scale`."""
        seen = looks(pixels)
        given = np.append(seen, np.log2(max(scale, 1)))[None]
        measures = {str(measure): float(value) for measure, value in zip(MEASURES, seen, strict=True)}
        barred = set() if measures["grey"] else self._for_grey
        gains = np.where([name in barred for name in self.names], -np.inf, self.expected(given))
        name = self.names[int(self._best(gains)[0])]
        expected = {n: round(float(g), 2) for n, g in zip(self.names, gains[0], strict=True) if n not in barred}
        return Choice(name, expected, measures)

    def chosen(self, seen: NDArray[Any]) -> NDArray[np.intp]:
        """Places in `names`, (N,); see `expected`."""
        return self._best(self.expected(seen))

    def _best(self, gains: NDArray[np.float32]) -> NDArray[np.intp]:
        nothing, base = self.names.index(NOTHING), self.names.index(BASE)
        wanted = gains - MARGIN * (np.arange(len(self.names)) != nothing)
        wanted = np.where(gains < [self._least.get(name, -np.inf) for name in self.names], -np.inf, wanted)
        best, basic = wanted.argmax(1), wanted[:, base]
        stays = (basic > wanted[:, nothing]) & (wanted.max(1) < basic + LEAVE)
        return np.where(stays, base, best)

    def expected(self, seen: NDArray[Any]) -> NDArray[np.float32]:
        """dB for each name, (N, names), from measures and the logarithm of the scale, (N, measures + 1)."""
        t = self._tensors
        x = ((seen - t["mean"]) / t["deviation"]).clip(-_FARTHEST, _FARTHEST)[None]  # (1, N, measures + 1)
        for layer in range(3):
            x = x @ t[f"weight{layer}"] + t[f"bias{layer}"]
            x = np.tanh(x) if layer < 2 else x
        found = x.mean(0) - self.doubt * x.std(0)  # over the nets
        return found - found[:, self.names.index(NOTHING), None]
