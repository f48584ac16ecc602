"""A model of a file that enlarges arrays and tensors, and large ones piece by piece."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette.checkpoint import load
from lorgnette.images.file import Image
from lorgnette.systems import superres
from lorgnette.systems.superres import LMLTE, SuperResolution


class FeatureEnhancer:
    """Enlarges pictures.

    Args:
        model_path: a checkpoint (.pth, .pt, .safetensors), or the folder of an adapter, a whole model or a run. No code
            in it is run.
        device: where there is no CUDA, 'cuda' means the processor, with a warning.

    Attributes:
        model: the network; it takes and gives [-1, 1].
        task: what `lorgnette.systems.superres.enhance` takes.
        device: where it is.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: it holds something else, in one line.
    """

    def __init__(self, model_path: str | os.PathLike[str], device: str = "cuda"):
        if device.startswith("cuda") and not torch.cuda.is_available():
            warnings.warn("there is no CUDA here: the processor is used", stacklevel=2)
            device = "cpu"
        self.device = torch.device(device)
        path = Path(model_path)
        loaded = load(path) if path.is_dir() else SuperResolution(superres.from_upstream(path))
        if not isinstance(loaded, SuperResolution):
            raise ValueError(f"{path} is of another room than superres, which enlarges pictures")
        self.task = loaded.eval().to(self.device)
        self.model = cast(LMLTE, self.task.model)

    def enhance(self, image: NDArray[np.uint8] | Tensor, scale: float | tuple[float, float] = 4) -> Tensor:
        """A picture enlarged.

        Args:
            image: (H, W, 3) uint8, or (B, 3, H, W) in [0, 1].
            scale: any real factor, or one for each axis (y, x).

        Returns:
            (B, 3, H', W') in [0, 1] on the device; B is 1 for an array.

        Raises:
            ValueError: another shape, or a scale that does not work.
        """
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"image: {image.dtype} of {image.shape} does not work; uint8 of (H, W, 3) does")
            image = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return process_large_image(self.task, image, scale=scale).to(self.device)


def process_large_image(
    model: Any, img: Tensor, patch_size: int | None = None, overlap: int | None = None, scale: Any = 4
) -> Tensor:
    """A picture of any size enlarged patch by patch, without seams.

    Args:
        model: a network or a task of the room `superres`, or a `FeatureEnhancer`.
        img: (B, 3, h, w) in [0, 1].
        patch_size: side of what is looked at at once, overlap included. Unset: as `superres.enhance` does.
        overlap: of neighbours, in pixels, within `patch_size`; they fade into each other. Unset: as wide as makes the
            result equal to that of the whole picture. Less, as the original's 32, is quicker.
        scale: any real factor, or one for each axis (y, x).

    Returns:
        (B, 3, h', w') in [0, 1], on the processor.

    Raises:
        ValueError: shape, patch size, overlap or scale does not work, in one line.
    """
    if img.ndim != 4 or img.shape[1] != 3:
        raise ValueError(f"img: {tuple(img.shape)} does not work; (B, 3, h, w) does")
    task = model.task if isinstance(model, FeatureEnhancer) else model
    task = task if isinstance(task, SuperResolution) else SuperResolution(task)
    if patch_size is not None and not 0 <= (overlap or 0) < patch_size:
        raise ValueError(f"overlap: {overlap} does not work with a patch_size of {patch_size}; less does")
    tile = None if patch_size is None else patch_size - (overlap or 0)
    halo = None if overlap is None else overlap // 2
    pictures = [Image(one.permute(1, 2, 0).float().cpu().contiguous().numpy()) for one in img]
    enlarged = [superres.enhance(task, picture, scale, tile=tile, halo=halo).pixels for picture in pictures]
    return torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels in enlarged])
