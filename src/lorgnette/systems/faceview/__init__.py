"""Face views: embeddings of faces mapped between poses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.systems.faceview.recipe import ABOUT as ABOUT, Data as Data, Model as Model, Recipe as Recipe

if TYPE_CHECKING:
    from lorgnette.systems.faceview.attention import (
        CrossViewAttention as CrossViewAttention,
        LoRALinearLayer as LoRALinearLayer,
        PoseConditionedLoRAAttention as PoseConditionedLoRAAttention,
    )
    from lorgnette.systems.faceview.data import default_steps as default_steps, loaders as loaders
    from lorgnette.systems.faceview.evaluate import evaluation as evaluation
    from lorgnette.systems.faceview.exporting import program as program
    from lorgnette.systems.faceview.miniature import tiny as tiny
    from lorgnette.systems.faceview.model import EnhancedTransformerDecoderOnly3D as EnhancedTransformerDecoderOnly3D
    from lorgnette.systems.faceview.points import invented as invented
    from lorgnette.systems.faceview.pose import keypoints_from_68 as keypoints_from_68
    from lorgnette.systems.faceview.predict import rotate as rotate
    from lorgnette.systems.faceview.prior import (
        EnhancedTransformerWithPrior as EnhancedTransformerWithPrior,
        PriorPreservationLoss as PriorPreservationLoss,
    )
    from lorgnette.systems.faceview.projection import LightweightFaceProjectionLayer as LightweightFaceProjectionLayer
    from lorgnette.systems.faceview.task import FaceMapping as FaceMapping, make_task as make_task
    from lorgnette.systems.faceview.weights import from_upstream as from_upstream

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
