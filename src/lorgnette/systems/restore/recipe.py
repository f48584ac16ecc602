"""The settings of the restoration room. Imports no torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from lorgnette.common.values import check_choices
from lorgnette.images.folders import check_as_many
from lorgnette.images.kinds import DAMAGE_HELP, PEERS_HELP, Kind
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.protocol import About, TestOption
from lorgnette.train.config import TrainConfig

ABOUT = About(
    name="restore",
    verbs={"enhance": "IN OUT"},
    test_options={
        "levels": TestOption(
            "levels",
            "of restore: noise (of 255) or JPEG qualities; unset: those of the recipe, 15 25 50 or 10 20 30 40",
            read=float,
            metavar="L",
            several=True,
        ),
        "lr_folder": TestOption("lr", "small or damaged namesakes; unset: made here", also=("lq",)),
        "damage": TestOption("damage", DAMAGE_HELP, metavar="KIND"),
        "peers": TestOption("peers", PEERS_HELP, metavar="NAME", several=True, alone=True),
    },
    crop="test_crop",
    shipped=("jpeg", "camera", "counts", "photo"),
    for_grey=("counts",),
    least={"base": 2.0, "camera": 2.0},  # of a sound picture that was made small, fine detail looks like little noise
    cleans=True,
    option_files=True,
    prunes=True,
)


@dataclass(frozen=True)
class Model:
    """Which network, and the weights it starts from. Settings of the network are upstream's (csguoh/MambaIR)."""

    base: str = "shipped"
    """'shipped' (the denoiser in this package, whose settings then hold), 'none' (untrained), or a file: an
    upstream checkpoint (.pth, .pt, .safetensors) or a folder that `save` wrote."""
    pruned: bool = False
    """The base is narrower than these settings say, as `lorgnette prune` leaves it: widths are those of its tensors."""
    in_chans: int = 3
    """3 for colour, 1 for grey."""
    embed_dim: int = 64
    """Channels; at least 30."""
    depths: tuple[int, ...] = (2, 2)
    """Blocks of each group."""
    d_state: int = 8
    """Size of the scan's state."""
    mlp_ratio: float = 1.0
    """Channels inside a block, in multiples of embed_dim."""
    drop_path_rate: float = 0.0
    """Stochastic depth: how often the last block is skipped in training; earlier blocks are skipped less often."""
    upscale: int = 1
    """Factor of enlargement."""
    img_range: float = 1.0
    """Largest pixel value inside the network."""
    upsampler: Literal["", "pixelshuffle", "pixelshuffledirect"] = ""
    """'' restores at the same size; 'pixelshuffle' and 'pixelshuffledirect' (light) enlarge."""
    resi_connection: Literal["1conv", "3conv"] = "1conv"
    """Convolutions at the end of a group."""
    use_checkpoint: bool = False
    """Compute blocks again in the backward pass instead of keeping what is inside them."""
    use_lora_cache: bool = False
    """A residual low-rank map and a feature cache inside every block."""
    lora_rank: int = 16
    """Rank of that map."""
    lora_alpha: float = 16
    """Its strength: it is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0
    """Dropout on its input, in [0, 1)."""
    cache_size: int = 5
    """Feature maps that each block keeps, of all streams together."""
    similarity_threshold: float = 0.95
    """Cosine from which a kept feature map is blended in."""
    cache_in_training: bool = False
    """Use the cache in training as well, so that its share in the result is learnt: from clips (data.frames)."""
    max_bytes: int = 2 * 2**30
    """Of all feature maps that the network keeps; each block has its share."""

    def __post_init__(self) -> None:
        check_choices(self, "model.")


@dataclass(frozen=True)
class Data:
    """Images to learn from: either `root`, whose images are damaged on the way, or the pair `lq` and `gt`."""

    OWN: ClassVar[tuple[str, ...]] = ("root", "lq", "gt", "test", "test_lq")
    SHARED: ClassVar[tuple[str, ...]] = ("filename_tmpl",)

    root: list[str] | str | None = None
    """A folder of clean images, searched with its subfolders, or a list of folders."""
    lq: list[str] | str | None = None
    """A folder of damaged images, each with a namesake in `gt`, or a list of folders."""
    gt: list[str] | str | None = None
    """The same scenes, clean: as many folders as `lq`."""
    filename_tmpl: str | None = None
    """How a damaged image is called after the clean one, such as '{}_noisy'. Unset: the same, but for marks such as
    x4 and _LR."""
    degradation: Literal["denoise", "jpeg", "sr"] = "denoise"
    """What is done to clean images: Gaussian noise, JPEG compression, or bicubic shrinking. It also decides how results
    are scored."""
    damage: Kind = ""
    """Instead, what lens, sensor, camera program and file do to pictures of this kind: photo, phone, camera, web,
    sharpened, film, scan, counts, screen or art (docs/damage.md)."""
    scale: int = 1
    """Factor between damaged and clean images: model.upscale."""
    grey: bool = False
    """Colour images are made grey, for a network with model.in_chans 1."""
    sigmas: tuple[float, float] = (0.0, 50.0)
    """Each sample has noise of a deviation between these, in levels of 255."""
    qualities: tuple[int, int] = (10, 40)
    """Each sample is compressed at a JPEG quality between these."""
    frames: int | None = None
    """Frames in each training sample: the images of one folder, in the order of their numbers, are then a clip, whose
    frames meet in the feature cache. Unset: 2 with model.cache_in_training, and otherwise 1, images by themselves."""
    test: list[str] | str | None = None
    """A folder (or folders) of held-out clean images. Unset: a part of the training images is held out."""
    test_lq: list[str] | str | None = None
    """Damaged namesakes of the images in `test`. Unset: they are damaged on the way."""
    holdout: float = 0.15
    """Share of the images (at least one) that is held out where `test` is not set. 0: none."""
    test_sigmas: tuple[float, ...] = (15.0, 25.0, 50.0)
    """Noise of held-out images."""
    test_qualities: tuple[int, ...] = (10, 20, 30, 40)
    """JPEG qualities of held-out images."""
    patch: int = 64
    """Side of a training crop, in damaged pixels."""
    augment: bool = True
    """Flip and transpose the crops at random."""
    test_crop: int = 256
    """Held-out images are cut to this side around their centre for scoring during training. 0: whole."""
    crop_border: int | None = None
    """Pixels left out at each side when scoring. Unset: the scale, for 'sr', and none otherwise."""
    test_y_channel: bool | None = None
    """Score luma instead of RGB. Unset: not for 'denoise', as published tables do."""
    loss: Literal["l1", "l2", "charbonnier"] = "l1"
    """How far a result is from the truth. 'l2' keeps the mean of what is counted, where 'l1' keeps its median."""

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        low, high = self.sigmas
        if not 0 <= low <= high <= 255:
            raise ValueError(f"data.sigmas: {low}, {high} must be two rising deviations between 0 and 255")
        low, high = self.qualities
        if not 1 <= low <= high <= 100:
            raise ValueError(f"data.qualities: {low}, {high} must be two rising qualities between 1 and 100")
        if any(not 0 <= sigma <= 255 for sigma in self.test_sigmas):
            raise ValueError(f"data.test_sigmas: {self.test_sigmas} must lie between 0 and 255")
        if any(not 1 <= quality <= 100 for quality in self.test_qualities):
            raise ValueError(f"data.test_qualities: {self.test_qualities} must lie between 1 and 100")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout: {self.holdout} is outside [0, 1); 0.15 is usual")
        if self.patch < 8 or self.test_crop < 0 or (self.crop_border or 0) < 0:
            raise ValueError("data: patch must be at least 8, test_crop and crop_border at least 0")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"data.frames: {self.frames} is too small; at least 1 works")
        if self.filename_tmpl is not None and self.filename_tmpl.count("{}") != 1:
            raise ValueError(f"data.filename_tmpl: {self.filename_tmpl!r} must hold {{}} once; '{{}}x4' works")
        if not 1 <= self.scale <= 8:
            raise ValueError(f"data.scale: {self.scale} is not a factor from 1 to 8")
        if self.scale != 1 and self.degradation != "sr" and not self.damage and self.root is not None:
            raise ValueError(
                f"data.scale: {self.degradation!r} keeps the size; data.degradation 'sr' goes with a scale"
            )
        if (self.lq is None) != (self.gt is None):
            raise ValueError("data.lq and data.gt belong together: give both, or data.root alone")
        if self.test_lq is not None and self.test is None:
            raise ValueError("data.test_lq: needs data.test, the same scenes, clean")
        if self.root is not None and self.lq is not None:
            raise ValueError("data.root and data.lq/data.gt exclude each other: give one or the other")
        if self.damage and self.lq is not None:
            raise ValueError("data.damage: is made of clean images, and data.lq are damaged already; give data.root")
        check_as_many(self, ("lq", "gt"), ("test_lq", "test"))

    def all_held_out(self) -> Data | None:
        """See `lorgnette.systems.protocol.RoomData`."""
        if self.root is None and self.lq is None:
            return None
        return replace(self, test=self.root) if self.root is not None and self.test is None else self

    def check_alike(self) -> None:
        """Nothing here follows from one holder's pictures."""


# The layers that matter for another kind of damage: the scan's projections and the convolutions, in every variant.
DEFAULT_TARGETS = (
    r"(.*\.)?(in_proj|out_proj|cab\.\d|conv|conv\.[024]|conv_first|conv_after_body|conv_last"
    r"|conv_before_upsample\.0|upsample\.\d)"
)
SCAN_PARAMETERS = ["x_proj_weight", "dt_projs_weight"]
"""The scan's raw weights, for `lora.target_parameters`: adapting them too takes a third more parameters."""


def _default_lora() -> LoRAConfig:
    return LoRAConfig(r=2, lora_alpha=4, target_modules=DEFAULT_TARGETS)


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one restoration model."""

    model: Model = field(default_factory=Model)
    """Network and base weights."""
    data: Data = field(default_factory=Data)
    """Images and what happened to them."""
    lora: LoRAConfig | None = field(default_factory=_default_lora)
    """The adapter. null: train the whole network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""

    def __post_init__(self) -> None:
        if self.model.cache_in_training and not self.model.use_lora_cache:
            warnings.warn("model.cache_in_training: without model.use_lora_cache there is no cache", stacklevel=2)
        learns = self.model.use_lora_cache and self.model.cache_in_training
        if learns and self.data.frames is None:
            object.__setattr__(self, "data", replace(self.data, frames=2))
        if not learns and (self.data.frames or 1) > 1:
            raise ValueError(
                f"data.frames: {self.data.frames} is for the feature cache: model.use_lora_cache and"
                " model.cache_in_training go with it"
            )
        if self.data.scale != self.model.upscale:
            raise ValueError(
                f"data.scale: {self.data.scale} is not model.upscale, {self.model.upscale}: give both the same"
            )
        if self.data.grey != (self.model.in_chans == 1):
            raise ValueError(
                f"data.grey: {self.data.grey} does not go with model.in_chans {self.model.in_chans}; colour has 3,"
                " grey has 1"
            )
