from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.protocol import About
from lorgnette.train.config import TrainConfig

ABOUT = About(name="sixth")


@dataclass(frozen=True)
class Model:
    base: str = "none"
    """'none', or a folder of weights."""


@dataclass(frozen=True)
class Data:
    OWN: ClassVar[tuple[str, ...]] = ("root", "test")
    SHARED: ClassVar[tuple[str, ...]] = ()
    root: str | None = None
    """A .npy file of (N, 5) numbers: the fifth follows from the others."""
    test: str | None = None
    """Another to be scored on."""
    holdout: float = 0.25
    """Share that is held out where `test` is not set."""

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout: {self.holdout} is outside [0, 1); 0.25 is usual")

    def all_held_out(self) -> Data | None:
        return replace(self, test=self.test or self.root) if self.root else None

    def check_alike(self) -> None: ...


@dataclass(frozen=True)
class Recipe:
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    lora: LoRAConfig | None = field(default_factory=lambda: LoRAConfig(r=2, target_modules=["0", "2"]))
    train: TrainConfig = field(default_factory=TrainConfig)
