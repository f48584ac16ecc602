"""The settings of the super-resolution room. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from lorgnette.common.values import check_choices, factor
from lorgnette.images.folders import check_as_many
from lorgnette.images.kinds import DAMAGE_HELP, PEERS_HELP, Kind
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.protocol import About, TestOption
from lorgnette.systems.superres.names import encoder_name, method_name
from lorgnette.train.config import TrainConfig

ABOUT = About(
    name="superres",
    verbs={"enhance": "IN OUT", "cmsr": "FOLDER"},
    test_options={
        "scales": TestOption("scales", "factors of superres; unset: 2 3 4", read=factor, metavar="S", several=True),
        "lr_folder": TestOption("lr", "small or damaged namesakes; unset: made here", also=("lq",)),
        "damage": TestOption("damage", DAMAGE_HELP, metavar="KIND"),
        "colour": TestOption(
            "colour", "of superres: score on luma (y) or on all channels (rgb); unset: y", metavar="C"
        ),
        "grey": TestOption(
            "grey",
            "of superres: grey images in their full range (full) or as colour (rgb); unset: full",
            metavar="G",
        ),
        "peers": TestOption("peers", PEERS_HELP, metavar="NAME", several=True, alone=True),
    },
    crop="test_crop",
    shipped=("photo", "phone", "web", "screen", "art"),
    usual_scale=2,
    prunes=True,
)


@dataclass(frozen=True)
class Model:
    """Which network, and the weights it starts from."""

    method: str = "lm-lte"
    """How features become colours at any point: lm-lte, lm-liif or lm-ciaosr; or, several times slower, what these were
    made of: lte or liif. LMLTE and the like are understood."""
    encoder: str = "edsr-baseline"
    """How an image becomes features: edsr-baseline, edsr, rdn, rdn-a, swinir, swinir-light or edsr-small."""
    base: str = "shipped"
    """'shipped' (the network in this package), 'none' (untrained), or a file: an upstream checkpoint (.pth, .pt,
    .safetensors) or a folder that `save` wrote."""
    pruned: bool = False
    """The base is narrower than its names say, as `lorgnette prune` leaves it: widths are those of its tensors."""
    use_checkpoint: bool = False
    """Make the encoder's activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", method_name(self.method))
        object.__setattr__(self, "encoder", encoder_name(self.encoder))


@dataclass(frozen=True)
class Data:
    """Images to learn from. Either `root`, whose images are made small by bicubic, or the pair `lr` and `hr`."""

    OWN: ClassVar[tuple[str, ...]] = ("root", "lr", "hr", "test", "test_lr")
    SHARED: ClassVar[tuple[str, ...]] = ()

    root: str | list[str] | None = None
    """A folder of images, searched with its subfolders, or a list of folders (in a federation, one each site)."""
    lr: str | list[str] | None = None
    """A folder (or folders) of low-resolution images; each has a namesake in `hr`."""
    hr: str | list[str] | None = None
    """The same scenes at high resolution; as many folders."""
    test: str | list[str] | None = None
    """A folder (or folders) of held-out high-resolution images. Unset: a part of the training images is held out."""
    test_lr: str | list[str] | None = None
    """Low-resolution namesakes of the images in `test`. Unset: they are made by bicubic."""
    damage: Kind = ""
    """What lens, sensor, camera program and file do to the small images of `root`: photo, phone, camera, web,
    sharpened, film, scan, counts, screen or art (docs/damage.md). Unset: bicubic, and nothing else."""
    holdout: float = 0.15
    """Share of the images (at least one) that is held out where `test` is not set. 0: none."""
    scales: tuple[float, float] = (1.0, 4.0)
    """Each batch draws its scale from this range (not used with lr and hr: the files decide)."""
    progressive: int = 0
    """Steps over which the largest scale grows from the smallest of `scales` to the largest. 0: all from the start."""
    test_scales: tuple[float, ...] = (2.0, 4.0)
    """Scales at which held-out images are scored (not used with lr and hr)."""
    patch: int = 48
    """Side of a training crop, in low-resolution pixels."""
    points: int = 2304
    """High-resolution pixels compared in each crop."""
    augment: bool = True
    """Flip and transpose the crops at random."""
    test_crop: int = 256
    """Held-out images are cut to this side around their centre for scoring during training. 0: whole."""

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        low, high = self.scales
        if not 1 <= low <= high <= 32:
            raise ValueError(f"data.scales: {low}, {high} must be two rising factors between 1 and 32")
        if any(not 1 <= s <= 32 for s in self.test_scales):
            raise ValueError(f"data.test_scales: {self.test_scales} must lie between 1 and 32")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout: {self.holdout} is outside [0, 1); 0.15 is usual")
        if self.progressive < 0:
            raise ValueError(f"data.progressive: {self.progressive} is negative; a number of steps works, or 0")
        if self.patch < 8 or self.points < 1 or self.test_crop < 0:
            raise ValueError("data: patch must be at least 8, points at least 1, test_crop at least 0")
        if (self.lr is None) != (self.hr is None):
            raise ValueError("data.lr and data.hr belong together: give both, or data.root alone")
        if self.test_lr is not None and self.test is None:
            raise ValueError("data.test_lr: needs data.test, the same scenes at high resolution")
        if self.root is not None and self.lr is not None:
            raise ValueError("data.root and data.lr/data.hr exclude each other: give one or the other")
        if self.damage and self.lr is not None:
            raise ValueError("data.damage: is made of clean images, and data.lr are damaged already; give data.root")
        check_as_many(self, ("lr", "hr"), ("test_lr", "test"))

    def all_held_out(self) -> Data | None:
        """See `lorgnette.systems.protocol.RoomData`."""
        if self.root is None and self.lr is None:
            return None
        return replace(self, test=self.root) if self.root is not None and self.test is None else self

    def check_alike(self) -> None:
        """Nothing here follows from one holder's pictures."""


# The layers that matter for another camera: of whichever encoder there is its convolutions, or attention and MLP of its
# windows; and the decoder's projections and hypernetwork.
DEFAULT_TARGETS = (
    r"encoder\.(head\.0|body\.\d+(\.body\.[02])?"
    r"|SFENet[12]|RDBs\.\d+\.(convs\.\d+\.conv\.0|LFF)|GFF\.[01]"
    r"|layers\.\d+\.residual_group\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12]))"
    r"|coef|freq|hypernet(_q)?\.layers\.[02]|(prenet_q|imnet_[kv])\.layers\.[02]"
)


def _default_lora() -> LoRAConfig:
    return LoRAConfig(r=3, lora_alpha=6, target_modules=DEFAULT_TARGETS)


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one super-resolution model."""

    model: Model = field(default_factory=Model)
    """Network and base weights."""
    data: Data = field(default_factory=Data)
    """Images."""
    lora: LoRAConfig | None = field(default_factory=_default_lora)
    """The adapter. null: train the whole network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""
