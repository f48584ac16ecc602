"""Face views: embeddings of faces mapped between poses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.systems.faceview.attention import (
        CrossViewAttention as CrossViewAttention,
        LoRALinearLayer as LoRALinearLayer,
        PoseConditionedLoRAAttention as PoseConditionedLoRAAttention,
    )
    from lorgnette.systems.faceview.model import EnhancedTransformerDecoderOnly3D as EnhancedTransformerDecoderOnly3D
    from lorgnette.systems.faceview.pose import (
        keypoints_from_68 as keypoints_from_68,
    )
    from lorgnette.systems.faceview.prior import (
        EnhancedTransformerWithPrior as EnhancedTransformerWithPrior,
        PriorPreservationLoss as PriorPreservationLoss,
    )
    from lorgnette.systems.faceview.projection import LightweightFaceProjectionLayer as LightweightFaceProjectionLayer

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
