"""The settings of the mesh room. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from lorgnette.common.values import check_choices
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.protocol import About, TestOption
from lorgnette.train.config import TrainConfig

ABOUT = About(
    name="mesh",
    verbs={"decode": "MASK OUT --scan SCAN"},
    test_options={
        "organs": TestOption("organs", "which organs are scored; unset: all", metavar="NAME", several=True),
    },
    prepares=True,
    extra="mesh",
)

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"model_channels": 32, "num_blocks": 2, "num_heads": 2, "num_groups": 4, "window_size": 4},
    "small": {"model_channels": 128, "num_blocks": 2, "num_heads": 4, "num_groups": 16},
    "medium": {"model_channels": 256, "num_blocks": 4, "num_heads": 4},
    "trellis": {"model_channels": 768, "num_blocks": 12, "num_heads": 12},
}
"""Settings of the decoder by name; 'trellis' are those of the weights that TRELLIS and SAM 3D Objects publish."""


@dataclass(frozen=True)
class Model:
    """Which decoder, the weights it starts from, and what counts as an error."""

    size: Literal["tiny", "small", "medium", "trellis"] = "small"
    """Width and depth: 32 x 2, 128 x 2, 256 x 4, or 768 x 12 as published."""
    base: str = "shipped"
    """'shipped' (the decoder in this package), 'none' (untrained), or a file: a published checkpoint (.safetensors,
    .pt, .ckpt) or a folder that `save` wrote."""
    loss_distance: float = 1.0
    """Weight of the Huber loss of signed distances, cut off four cubes from the surface."""
    loss_dice: float = 0.5
    """Weight of the soft Dice loss of the corners' insides."""
    loss_eikonal: float = 0.02
    """Weight of how far the slope of the distances is from 1."""
    loss_normal: float = 0.1
    """Weight of the angle between predicted and true normals (1 - cosine)."""
    loss_chamfer: float = 0.1
    """Weight of the distance between predicted and true surface, in cubes."""
    loss_regular: float = 0.002
    """Weight of FlexiCubes' own terms: cubes agree on shared corners, faces are even, weights are small."""

    def __post_init__(self) -> None:
        check_choices(self, "model.")
        for name in (n for n in self.__dataclass_fields__ if n.startswith("loss_")):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"model.{name}: {getattr(self, name)} is not 0 or a positive number")


@dataclass(frozen=True)
class Data:
    """Volumes with masks of organs to learn from."""

    OWN: ClassVar[tuple[str, ...]] = ("root", "test", "cache")
    SHARED: ClassVar[tuple[str, ...]] = ("organs", "test_organs")

    root: str | list[str] | None = None
    """A folder of cases as TotalSegmentator has it (or several): in each a scan and a mask for each organ, or one of
    all organs. One case alone will do."""
    test: str | list[str] | None = None
    """A folder (or folders) of held-out cases. Unset: a part of the cases of `root` is held out."""
    organs: tuple[str, ...] = ()
    """Names of the organs to learn from. Unset: all."""
    test_organs: tuple[str, ...] = ()
    """Names of organs that are only tested, in every case. Unset: those that are learnt from."""
    holdout: float = 0.15
    """Share of the cases that is held out where neither `test` nor `test_organs` is set; of one case, of its organs."""
    features: Literal["mask", "scan"] = "scan"
    """What the decoder sees of each active voxel: the mask in its eight parts, or the scan's values there."""
    window: tuple[float, float] | None = (-160.0, 240.0)
    """Values of the scan that become -1 and 1, in Hounsfield units. null: its own percentiles 1 and 99."""
    resolution: int = 16
    """Voxels along an axis of the grid around an organ; its surface is found on one four times as fine."""
    min_voxels: int = 500
    """Organs with fewer voxels in their mask are left out."""
    cache: str | None = None
    """A folder for what is computed of each organ. Unset: `.lorgnette-mesh` in `root`, where that can be written."""

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout: {self.holdout} is outside [0, 1); 0.15 is usual")
        if not 4 <= self.resolution <= 128:
            raise ValueError(f"data.resolution: {self.resolution} is outside 4 to 128; 16, 32 and 64 are usual")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"data.window: {self.window[0]}, {self.window[1]} must rise; -160, 240 is usual")
        if self.min_voxels < 1:
            raise ValueError(f"data.min_voxels: {self.min_voxels} is below 1; 500 is usual")

    def all_held_out(self) -> Data | None:
        """See `lorgnette.systems.protocol.RoomData`."""
        if self.root is None:
            return None
        return self if self.test is not None else replace(self, test=self.root)

    def check_alike(self) -> None:
        """Nothing here follows from one holder's volumes."""


def _default_lora() -> LoRAConfig:
    return LoRAConfig(r=4, lora_alpha=8, target_modules=["to_qkv", "to_out"])


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one mesh decoder."""

    model: Model = field(default_factory=Model)
    """Decoder, base weights and losses."""
    data: Data = field(default_factory=Data)
    """Volumes."""
    lora: LoRAConfig | None = field(default_factory=_default_lora)
    """The adapter. null: train the whole decoder."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""
