"""The classes of the original page: those of the room `faceview`, under the original path."""

from lorgnette.systems.faceview.attention import (
    CrossViewAttention,
    LoRALinearLayer,
    PoseConditionedLoRAAttention,
    collapse_from_multiview,
    expand_to_multiview,
)
from lorgnette.systems.faceview.model import EnhancedTransformerDecoderOnly3D
from lorgnette.systems.faceview.prior import EnhancedTransformerWithPrior, PriorPreservationLoss
from lorgnette.systems.faceview.projection import LightweightFaceProjectionLayer

__all__ = [
    "CrossViewAttention",
    "EnhancedTransformerDecoderOnly3D",
    "EnhancedTransformerWithPrior",
    "LightweightFaceProjectionLayer",
    "LoRALinearLayer",
    "PoseConditionedLoRAAttention",
    "PriorPreservationLoss",
    "collapse_from_multiview",
    "expand_to_multiview",
]
