"""Names of the requirement document on LMF, as thin fronts over the room `superres`."""

from lorgnette.compat.lmf.cache import FeatureCache
from lorgnette.compat.lmf.enhancer import FeatureEnhancer, process_large_image
from lorgnette.compat.lmf.figures import visualize_attention, visualize_feature_maps
from lorgnette.compat.lmf.metrics import calculate_psnr, calculate_ssim
from lorgnette.compat.lmf.training import forward_with_checkpoint, get_lr_schedule, perceptual_loss, total_loss
from lorgnette.nn.vgg import VGG19
from lorgnette.systems.superres.coords import make_coord

__all__ = [
    "VGG19",
    "FeatureCache",
    "FeatureEnhancer",
    "calculate_psnr",
    "calculate_ssim",
    "forward_with_checkpoint",
    "get_lr_schedule",
    "make_coord",
    "perceptual_loss",
    "process_large_image",
    "total_loss",
    "visualize_attention",
    "visualize_feature_maps",
]
