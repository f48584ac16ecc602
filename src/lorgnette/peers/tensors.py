"""Pictures as other programs take them, and as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorgnette.peers.ncnn_nets import Pixels


def to_pixels(picture: Tensor) -> Pixels:
    """(1, C, H, W) -> (H, W, 3); grey ones become three equal channels."""
    return picture[0].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def to_tensor(pixels: Pixels, channels: int = 3) -> Tensor:
    """(H, W, 3) -> (1, channels, H, W), clipped to [0, 1]; one channel is the first."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float()
    return tensor[:, :channels].clamp(0, 1)
