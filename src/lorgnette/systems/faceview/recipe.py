"""The settings of the room of face views. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from lorgnette.common.values import check_choices, whole
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.protocol import About, TestOption
from lorgnette.train.config import TrainConfig

ABOUT = About(
    name="faceview",
    verbs={"rotate": "IN OUT"},
    test_options={
        "intervals": TestOption(
            "intervals", "of faceview: bootstrap draws over persons for intervals; unset: none", whole(), "N"
        )
    },
    plots=True,
    extra="faceview",
)


@dataclass(frozen=True)
class Model:
    """Which network, the weights it starts from, and what is to be small."""

    base: str = "none"
    """'none' (untrained), or a base: a folder that `save` wrote, or a weight file. Embeddings of each encoder need a
    base of their own: train one with --lora null."""
    allow_untrained: bool = False
    """Adapt a base that nobody has trained all the same; else it is refused, because a random network has nothing worth
    adapting."""
    d_model: int = 512
    """Numbers of an embedding, and width of the network."""
    nhead: int = 8
    """Heads of the attentions; a divisor of d_model."""
    num_layers: int = 4
    """Decoder layers."""
    dim_feedforward: int = 2048
    """Width inside their MLPs."""
    dropout: float = 0.1
    """In attentions and MLPs."""
    num_tokens: int = 4
    """Tokens that an embedding is spread over. 1: the literal form of the original, whose self-attention is
    over one token."""
    keypoints: bool = True
    """Attend to the five keypoints as well as to the poses; the data must have them."""
    steps: bool = True
    """With a path of residual blocks beside the transformer, one for each 15 degrees of a turn: it learns quickly from
    few persons."""
    projection: bool = False
    """With the projection layer: a feature lifted into a voxel grid and rendered from the target's side."""
    voxel_resolution: int = 16
    """Voxels along an edge of that grid; twice as many cost eight times the memory."""
    gate: Literal["dream", "none"] = "dream"
    """'dream' leaves what needs no turning as it is: the residual is weighted by sigmoid(10 (|yaw| / 45 - 1))."""
    contrastive: float = 0.3
    """Weight of the loss that tells the persons of a batch apart, beside 1 - cos."""
    temperature: float = 0.07
    """Of that loss, and of the divergence of the prior."""
    prior: float = 0.0
    """Weight of the distance to the frozen base (its own answers without adapters). It is asked on `data.replay` where
    that is set, else on the training batch."""

    def __post_init__(self) -> None:
        check_choices(self, "model.")
        for name in ("d_model", "nhead", "num_layers", "dim_feedforward", "num_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: {getattr(self, name)} is too small; 1 or more works")
        for name in ("nhead", "num_tokens"):
            if self.d_model % getattr(self, name):
                raise ValueError(f"model.{name}: {getattr(self, name)} does not divide model.d_model {self.d_model}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout: {self.dropout} is not in [0, 1); 0.1 is usual")
        if not 2 <= self.voxel_resolution <= 64:
            raise ValueError(f"model.voxel_resolution: {self.voxel_resolution} is outside 2 to 64; 16 is usual")
        for name in ("contrastive", "prior"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"model.{name}: {getattr(self, name)} is no weight; 0 or more works")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"model.temperature: {self.temperature} is not positive; 0.07 is usual")
        if self.projection and not self.keypoints:
            raise ValueError("model.projection: needs model.keypoints, which it lifts into space")


@dataclass(frozen=True)
class Data:
    """Embeddings of faces with the pose of each: a folder of arrays, or invented heads."""

    OWN: ClassVar[tuple[str, ...]] = ("root", "test", "replay")
    SHARED: ClassVar[tuple[str, ...]] = ()

    root: str | list[str] | None = None
    """A folder of arrays as `lorgnette embed` writes it (front_NAME, video_NAME for each person), or of the original
    layout (front_feature.npy, ...), or a list of such folders (in a federation, one each site)."""
    test: str | list[str] | None = None
    """Such a folder (or folders) of other persons. Unset: a part of the persons is held out."""
    replay: str | None = None
    """A folder of what the base was trained on, where `model.prior` keeps its answers."""
    preset: Literal["", "points", "points-worn"] = ""
    """Invented heads seen by a random encoder of points, without a picture or a person: points, or the same through a
    worn camera (points-worn). What is learnt of them says nothing about photographs."""
    people: int = 300
    """How many heads are invented."""
    views: int = 8
    """Views of each beside two frontal ones."""
    holdout: float = 0.2
    """Share of the persons that is held out where `test` is not set. 0: none."""
    angle_unit: Literal["rad", "deg"] = "rad"
    """Of the poses in the files: InsightFace gives degrees, `lorgnette embed` writes radians."""
    min_yaw: float = 0.0
    """Views that are turned less, in degrees, are not learnt from."""
    max_yaw: float = 90.0
    """Views that are turned more, in degrees, are not learnt from; 90 or more: none is left out."""
    allow_missing_pose: bool = False
    """Take views without a pose as frontal; else they are refused."""
    targets: Literal["front", "any"] = "front"
    """What is learnt: the mean frontal embedding of a person, or that of any other view, with its pose."""

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        if self.root is not None and self.preset:
            raise ValueError("data.root and data.preset exclude each other: give one or the other")
        if self.test is not None and self.root is None:
            raise ValueError("data.test: needs data.root, the embeddings to learn from")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout: {self.holdout} is outside [0, 1); 0.2 is usual")
        if not 0 <= self.min_yaw < self.max_yaw <= 180:
            raise ValueError(f"data.min_yaw, data.max_yaw: {self.min_yaw}, {self.max_yaw} are not rising from 0 to 180")
        if self.people < 2 or self.views < 1:
            raise ValueError(f"data.people: {self.people} with {self.views} views are too few; 2 with 1 work")

    def all_held_out(self) -> Data | None:
        """See `lorgnette.systems.protocol.RoomData`."""
        if self.root is None and not self.preset:
            return None
        return replace(self, test=self.root) if self.root is not None and self.test is None else self

    def check_alike(self) -> None:
        """Nothing here follows from one holder's faces."""


ATTENTIONS = r"layers\.\d+\.(self|cross)_attn\.(q|k|v|out)"
"""All projections of all attentions, which are given the pose."""
TARGETS = rf"{ATTENTIONS}|steps\.(down|up|narrow|wide)\.\d+"
"""These and all layers of the step path."""


def _default_lora() -> LoRAConfig:
    """Half the rank in the attentions, so that the file stays small: the step path is what gains."""
    return LoRAConfig(
        r=8, lora_alpha=16, target_modules=TARGETS, rank_pattern={ATTENTIONS: 4}, alpha_pattern={ATTENTIONS: 8}
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one mapping of face embeddings."""

    model: Model = field(default_factory=Model)
    """Network, base weights and loss."""
    data: Data = field(default_factory=Data)
    """Embeddings."""
    lora: LoRAConfig | None = field(default_factory=_default_lora)
    """The adapter. null: train the whole network, which makes a base."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=64, lr=1e-3))
    """How to train."""
