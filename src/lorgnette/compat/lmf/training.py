"""The original's losses, schedule and checkpointing, for training loops of one's own.

`lorgnette train superres` trains on the plain L1 loss, as LMF was published.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Features = Callable[[Tensor], Sequence[Tensor]]


def get_lr_schedule(optimizer: torch.optim.Optimizer, args: Any) -> torch.optim.lr_scheduler.CosineAnnealingLR:
    """A learning rate that falls along a cosine to `args.min_lr` within `args.epochs` steps of the schedule."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs, eta_min=args.min_lr)


def perceptual_loss(pred: Tensor, gt: Tensor, vgg: Features) -> Tensor:
    """Sum over the layers of the mean absolute difference of features.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        gt: the same of the truth.
        vgg: gives features, such as `VGG19("vgg19.pth")`.
    """
    with torch.no_grad():
        wanted = vgg(gt)
    return torch.stack([F.l1_loss(p, g) for p, g in zip(vgg(pred), wanted, strict=True)]).sum()


def total_loss(pred: Tensor, gt: Tensor, vgg: Features | None, weight: float = 0.1) -> Tensor:
    """`pixel_loss + 0.1 * perceptual_loss`; without `vgg` the pixel loss alone, with a warning.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        gt: the same of the truth.
        vgg: as for `perceptual_loss`.
        weight: of the perceptual loss.
    """
    pixel = F.l1_loss(pred, gt)
    if vgg is None:
        warnings.warn("no VGG19 is given: the loss is the pixel loss alone", stacklevel=2)
        return pixel
    return pixel + weight * perceptual_loss(pred, gt, vgg)


def forward_with_checkpoint(self: nn.Module, *x: Any) -> Any:
    """A module's output without keeping its activations: they are made again in the backward pass.

    Of a module that has a `forward_pass` it is that, as in the original; of all others their `forward`. The networks of
    the room have `use_checkpoint` for their encoder.
    """
    return checkpoint(getattr(self, "forward_pass", self), *x, use_reentrant=False)
