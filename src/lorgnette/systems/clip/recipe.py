"""The settings of the classification room. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from lorgnette.common.values import check_choices
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.clip.names import check_different
from lorgnette.systems.protocol import About
from lorgnette.train.config import TrainConfig

ABOUT = About(name="clip", verbs={"classify": "IMAGE"}, extra="clip")

Architecture = Literal["small", "tiny", "vit-b-32"]
Tower = Literal["vision", "text"]


@dataclass(frozen=True)
class Model:
    """Which CLIP, the weights it starts from, and how it classifies."""

    base: str = "shipped"
    """'shipped' (the small CLIP in this package), 'none' (untrained), a folder as transformers or `save` writes it, or
    the name of a model in the Hugging Face cache, such as openai/clip-vit-base-patch32. Nothing is downloaded."""
    architecture: Architecture = "small"
    """Of base 'none': small (as shipped), tiny, or vit-b-32."""
    head: Literal["linear", "text"] = "linear"
    """What compares an image with the classes: a linear layer that is trained, or the text tower reading the prompts
    (zero-shot)."""
    head_start: Literal["text", "random"] = "text"
    """Where the linear layer starts: at the prompts as the text tower reads them, or at random."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass instead of keeping what is inside them."""

    def __post_init__(self) -> None:
        check_choices(self, "model.")


@dataclass(frozen=True)
class Data:
    """Pictures with a class each: a folder with one subfolder for each class, or a set that comes along."""

    OWN: ClassVar[tuple[str, ...]] = ("root", "test")
    SHARED: ClassVar[tuple[str, ...]] = ("classes", "prompts")

    root: str | list[str] | None = None
    """A folder of images, one subfolder for each class, or a list of such folders (in a federation, one each site)."""
    test: str | list[str] | None = None
    """Such a folder (or folders) of held-out images. Unset: a part of the training images is held out."""
    preset: Literal["", "digits", "shapes", "glyphs"] = ""
    """A set that needs no download: digits (handwritten, of scikit-learn), shapes (drawn sketches on noise), or glyphs
    (printed digits and filled shapes in colour, which the shipped CLIP learnt from)."""
    samples: int = 2000
    """Pictures that are drawn for shapes and glyphs."""
    classes: tuple[str, ...] = ()
    """Names of the classes. Unset: the names of the subfolders, with spaces for _. Capitals, _ and the form of accents
    make no other class."""
    prompts: tuple[str, ...] = ("a photo of a {}",)
    """What the text tower reads of each class; the mean of all counts."""
    image_size: int = 32
    """Side of the images in pixels, as the base reads them: 32 as shipped, 224 for most published ones."""
    holdout: float = 0.25
    """Share of the images of each class that is held out where `test` is not set. 0: none."""
    augment: bool = True
    """Cut the images at random in training: 70 to 100 % of their area."""
    flip: bool = False
    """Mirror half of the images in training: for photographs, not for writing."""
    loss: Literal["classes", "pairs"] = "classes"
    """'classes' learns the class of each image; 'pairs' learns which caption belongs to which image of a batch, with
    the preset glyphs: how a base is made."""

    def __post_init__(self) -> None:
        check_choices(self, "data.")
        if self.root is not None and self.preset:
            raise ValueError("data.root and data.preset exclude each other: give one or the other")
        if self.test is not None and self.root is None:
            raise ValueError("data.test: needs data.root, the images to learn from")
        if self.loss == "pairs" and self.preset != "glyphs":
            raise ValueError("data.loss: 'pairs' needs captions, which only data.preset 'glyphs' has")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout: {self.holdout} is outside [0, 1); 0.25 is usual")
        if not 8 <= self.image_size <= 1024:
            raise ValueError(f"data.image_size: {self.image_size} is outside 8 to 1024; 32 or 224 is usual")
        if self.samples < 20:
            raise ValueError(f"data.samples: {self.samples} is too small; 20 or more works")
        if not self.prompts or any(prompt.count("{}") != 1 for prompt in self.prompts):
            raise ValueError(f"data.prompts: {self.prompts} must each hold {{}} once, as 'a photo of a {{}}' does")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("data.classes: a name stands there twice")

    def all_held_out(self) -> Data | None:
        """See `lorgnette.systems.protocol.RoomData`."""
        if self.root is None and not self.preset:
            return None
        return replace(self, test=self.root) if self.root is not None and self.test is None else self

    def check_alike(self) -> None:
        """Classes that are named by each holder's folders may be numbered differently."""
        if not self.classes and not self.preset:
            raise ValueError("data.classes: name them, so that all sites number them alike; benign malignant, say")
        check_different(self.classes)


LR = 5e-3
"""For the adapters of the shipped CLIP (docs/tutorials/classification.md); published ones, much larger, want 2e-4."""
_LAYERS = r"encoder\.layers\.\d+\.(self_attn\.[qkv]_proj|mlp\.fc[12])"
VISION_TARGETS = rf"vision_model\.{_LAYERS}"
"""Query, key, value and both linear layers of the MLP, in every layer of the vision tower."""
TEXT_TARGETS = rf"text_model\.{_LAYERS}"
RANKS = {"small": 8, "medium": 16, "large": 32}


def adapter_preset(
    size: Literal["small", "medium", "large"] = "medium",
    towers: Sequence[Tower] = ("vision",),
    train_head: bool = True,
    lora_dropout: float = 0.1,
) -> LoRAConfig:
    """The usual adapters of a CLIP.

    On ViT-B/32 and its vision tower they have 1,179,648 (small), 2,359,296 (medium) and 4,718,592 (large) weights;
    a trained linear head adds 513 for each class.

    Args:
        size: rank 8, 16 or 32, with twice as much for lora_alpha.
        towers: 'vision', 'text' or both.
        train_head: train the linear head as well, whole.
        lora_dropout: see `LoRAConfig`.

    Raises:
        ValueError: an unknown size or tower.
    """
    if size not in RANKS:
        raise ValueError(f"size: {size!r} is not known; {', '.join(RANKS)} are")
    targets = {"vision": VISION_TARGETS, "text": TEXT_TARGETS}
    if not towers or not set(towers) <= targets.keys():
        raise ValueError(f"towers: {list(towers)} are not known; {', '.join(targets)} are")
    return LoRAConfig(
        r=RANKS[size],
        lora_alpha=2 * RANKS[size],
        lora_dropout=lora_dropout,
        target_modules="|".join(targets[tower] for tower in towers),
        modules_to_save=["head"] if train_head else None,
    )


def _default_lora() -> LoRAConfig:
    return LoRAConfig(r=8, lora_alpha=16, target_modules=VISION_TARGETS, modules_to_save=["head"])


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one classifier."""

    model: Model = field(default_factory=Model)
    """CLIP and base weights."""
    data: Data = field(default_factory=Data)
    """Pictures and their classes."""
    lora: LoRAConfig | None = field(default_factory=_default_lora)
    """The adapter. null: train the whole network."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=LR))
    """How to train."""

    def __post_init__(self) -> None:
        if self.data.loss == "pairs" and self.model.head != "text":
            raise ValueError("data.loss: 'pairs' goes with model.head 'text'")
