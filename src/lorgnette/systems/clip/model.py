"""CLIP as a classifier: the towers of transformers' `CLIPModel` under their own names, and a head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel
except ImportError:
    raise ValueError("the room clip needs transformers: pip install 'lorgnette[clip]'") from None

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "image_size": 16, "patch_size": 4},
        "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "max_position_embeddings": 16},
        "projection_dim": 16,
    },
    "small": {
        "vision": {"hidden_size": 80, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4,
                   "image_size": 32, "patch_size": 8},
        "text": {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "max_position_embeddings": 16},
        "projection_dim": 48,
    },
    "vit-b-32": {"vision": {}, "text": {}, "projection_dim": 512},
}  # fmt: skip
"""What differs from transformers' defaults, which are those of ViT-B/32."""


class TextHead(nn.Module):
    """Classes by their prompts, which the text tower reads in each forward pass. It has no weights.

    Args:
        tokens: (K, P, L), P prompts for each of K classes.
    """

    tokens: Tensor

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.register_buffer("tokens", tokens, persistent=False)


class CLIPClassifier(nn.Module):
    """The two towers of CLIP (Radford et al., arXiv 2103.00020) and what makes class scores of them.

    Names of weights are those of transformers' `CLIPModel`, with `head` beside them, so that its checkpoints and
    PEFT's adapters of it fit.

    Args:
        config: transformers' `CLIPConfig`, or its content.
        head: an `nn.Linear` of (projection_dim, K), a `TextHead`, or None, where only features are wanted.
    """

    def __init__(self, config: CLIPConfig | dict[str, Any], head: nn.Module | None = None):
        super().__init__()
        self.config = config if isinstance(config, CLIPConfig) else CLIPConfig(**config)
        clip = CLIPModel(self.config)
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.text_model, self.text_projection = clip.text_model, clip.text_projection
        self.logit_scale = clip.logit_scale
        self.head = head or nn.Identity()

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        embeddings: Any = self.vision_model.embeddings
        size = embeddings.image_size
        return int(size if isinstance(size, int) else size[0])

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S), normalised as CLIP's images are -> (B, D) of length 1."""
        if pixel_values.shape[-2:] != (self.image_size, self.image_size):
            height, width = pixel_values.shape[-2:]
            raise ValueError(
                f"data.image_size: images of {height} x {width} pixels do not fit; this CLIP reads {self.image_size}"
            )
        pooled = self.vision_model(pixel_values=pixel_values).pooler_output
        return F.normalize(self.visual_projection(pooled).float(), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens -> (N, D) of length 1."""
        pooled = self.text_model(input_ids=tokens).pooler_output
        return F.normalize(self.text_projection(pooled).float(), dim=-1)

    def prototypes(self, tokens: Tensor) -> Tensor:
        """(K, P, L) tokens of prompts -> (K, D) of length 1: the direction of their mean."""
        features = self.text_features(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return F.normalize(features.mean(1), dim=-1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S), normalised as CLIP's images are -> logits (B, K)."""
        features = self.image_features(pixel_values) * self.logit_scale.exp()
        if isinstance(self.head, TextHead):
            return features @ self.prototypes(self.head.tokens).T
        if isinstance(self.head, nn.Identity):
            raise ValueError("data.classes: this CLIP has no classes yet; give their names")
        return self.head(features)

    def gradient_checkpointing(self, enable: bool = True) -> None:
        """Compute layers again in the backward pass instead of keeping what is inside them, or do so no more."""
        for tower in (self.vision_model, self.text_model):
            word = "activation" if hasattr(tower, "activation_checkpointing_enable") else "gradient"  # before 5.20
            if enable:
                getattr(tower, f"{word}_checkpointing_enable")({"use_reentrant": False})
            else:
                getattr(tower, f"{word}_checkpointing_disable")()


def linear_head(prototypes: Tensor) -> nn.Linear:
    """A linear layer that scores as these prototypes (K, D) do."""
    head = nn.Linear(prototypes.shape[1], prototypes.shape[0])
    with torch.no_grad():
        head.weight.copy_(prototypes)
        nn.init.zeros_(head.bias)
    return head


def random_head(classes: int, dim: int, scale: float) -> nn.Linear:
    """A linear layer whose scores of features of length `scale` are small."""
    head = nn.Linear(dim, classes)
    nn.init.normal_(head.weight, std=0.1 / scale)
    nn.init.zeros_(head.bias)
    return head
