"""A simple camera, to make low-resolution pictures whose flaws are known."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.images.pixels import crop_to_multiple, to_uint8
from lorgnette.images.resize import imresize


@dataclass(frozen=True)
class Camera:
    """Lens, sensor and file format: blur, bicubic reduction, Gaussian noise, JPEG."""

    scale: int = 2
    """How many scene pixels, along one axis, make one sensor pixel."""
    blur: float = 1.8
    """Standard deviation of the lens's Gaussian blur, in scene pixels."""
    noise: float = 4.0
    """Standard deviation of the sensor's noise, in 8-bit levels."""
    quality: int = 75
    """JPEG quality of the file."""

    def shoot(self, scene: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Photograph a scene.

        Args:
            scene: (H, W, 3).
            seed: of the noise.

        Returns:
            (photo, scene), the scene cut to a multiple of `scale`.
        """
        sharp = crop_to_multiple(torch.from_numpy(scene).permute(2, 0, 1), self.scale)
        reduced = imresize(_blurred(sharp.float() / 255, self.blur), 1 / self.scale)
        noise = np.random.default_rng(seed).normal(0, self.noise / 255, tuple(reduced.shape))
        photo = to_uint8((reduced + torch.from_numpy(noise).float()).permute(1, 2, 0))
        file = io.BytesIO()
        PIL.Image.fromarray(photo).save(file, format="JPEG", quality=self.quality)
        return np.asarray(PIL.Image.open(file).convert("RGB")), sharp.permute(1, 2, 0).numpy()

    def __str__(self) -> str:
        return f"x{self.scale}, Gaussian blur {self.blur} px, noise of {self.noise} levels, JPEG quality {self.quality}"


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """(3, H, W) after a Gaussian blur, the border mirrored."""
    if sigma <= 0:
        return image
    reach = round(3 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image[None], (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)[0]
