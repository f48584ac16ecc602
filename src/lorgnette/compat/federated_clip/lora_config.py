"""`LoRAConfig` as the original had it: changeable, with presets; it resolves to the core's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lorgnette import lora
from lorgnette.common.text import nearest

COMPONENTS = {"encoder": "vision_model", "vision": "vision_model", "text": "text_model"}
"""Names of `target_components` that are towers; the other one is 'classifier'."""
CLIP_MODULES = ("q_proj", "k_proj", "v_proj", "fc1", "fc2")
HEAD = "head"
PLACES = COMPONENTS | {"classifier": HEAD}
"""Where each component is in the model."""


def components_of(layers: Iterable[str]) -> tuple[str, ...]:
    """The components that adapted layers of these names belong to."""
    tops = {name.partition(".")[0] for name in layers}
    return tuple(name for name, place in PLACES.items() if place in tops and name != "vision")  # which is 'encoder'


@dataclass
class LoRAConfig:
    """Settings of an adapter; attributes may be assigned."""

    r: int = 16
    """Rank."""
    lora_alpha: float = 32
    """Strength: the update is scaled by lora_alpha / r."""
    lora_dropout: float = 0.1
    """Dropout on the input of the low-rank path."""
    target_modules: list[str] | None = None
    """Last parts of the names of layers; None: query, key, value and both layers of the MLP."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train as well."""
    save_only_trainable: bool = True
    """Send and save what is trained only; False: all weights."""

    @classmethod
    def for_clip_model(cls, r: int = 16, lora_alpha: float = 32, **settings: Any) -> LoRAConfig:
        """For a tower of CLIP. On the vision tower of ViT-B/32, r 8, 16 and 32 come to 1,179,648, 2,359,296 and
        4,718,592 weights."""
        settings.setdefault("target_modules", list(CLIP_MODULES))
        return cls(r=r, lora_alpha=lora_alpha, **settings)

    @classmethod
    def for_classification_head(cls, r: int = 8, lora_alpha: float = 16, **settings: Any) -> LoRAConfig:
        """For the classification head alone."""
        settings.setdefault("target_modules", [HEAD])
        return cls(r=r, lora_alpha=lora_alpha, **settings)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoRAConfig:
        """The settings of `to_dict`; a one-line ValueError where a name is unknown."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"LoRAConfig has no setting {name!r}{nearest(str(name), known)}")
        return cls(**values)

    def resolved(self, target_components: Sequence[str] = ("encoder",)) -> lora.LoRAConfig:
        """The core's settings for some components of the model.

        Without 'classifier' among them, the head is trained whole: it starts at random.

        Raises:
            ValueError: an unknown component, or a setting that does not work.
        """
        for name in target_components:
            if name not in (*COMPONENTS, "classifier"):
                raise ValueError(f"target_components: {name!r} is not known; {', '.join(COMPONENTS)}, classifier are")
        towers = dict.fromkeys(COMPONENTS[name] for name in target_components if name in COMPONENTS)
        modules = CLIP_MODULES if self.target_modules is None else self.target_modules
        names = "|".join(re.escape(module) for module in modules if module not in (HEAD, "classifier"))
        patterns = [rf"{tower}\.(?:.*\.)?(?:{names})" for tower in towers if names]
        on_head = "classifier" in target_components or not patterns
        return lora.LoRAConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules="|".join([*patterns, *([HEAD] if on_head else [])]),
            bias=self.bias,
            modules_to_save=None if on_head else [HEAD],
        )
