"""VGG19 as a measure of likeness, under torchvision's names: the user's weight file is read, none ships."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorgnette.common.tensors import check_state, float_state, read_tensors

CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)  # 0: pooling
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYERS = ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4")


class VGG19(nn.Module):
    """Features of VGG19 (Simonyan and Zisserman, ICLR 2015) at some of its layers; nothing of it is trained.

    Args:
        path: a state dict of torchvision's `vgg19` (`features.0.weight`, ...; what belongs to its classifier is not
            read). None: random weights, which measure little.
        layers: what to give, as 'relu3_4': after the fourth convolution of the third stage.

    Raises:
        FileNotFoundError: no such file.
        ValueError: tensors that do not fit, or a layer that is not there, in one line.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: str | os.PathLike[str] | None, layers: Sequence[str] = LAYERS):
        super().__init__()
        modules: list[nn.Module] = []
        places: dict[str, int] = {}
        before, stage, number = 3, 1, 0
        for width in CHANNELS:
            if not width:
                modules.append(nn.MaxPool2d(2))
                stage, number = stage + 1, 0
                continue
            modules += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before, number = width, number + 1
            places[f"relu{stage}_{number}"] = len(modules) - 1
        for layer in layers:
            if layer not in places:
                raise ValueError(f"layers: {layer!r} is not there; {', '.join(places)} are")
        self.wanted = tuple(places[layer] for layer in layers)
        self.features = nn.Sequential(*modules)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        if path is not None:
            state = float_state(read_tensors(path), str(path))
            own = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
            check_state(own, self.state_dict(), str(path))
            self.load_state_dict(own)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w) of each layer, in the order of the network."""
        x = (image - self.mean) / self.std
        found = []
        for number, module in enumerate(list(self.features)[: max(self.wanted) + 1]):
            x = module(x)
            if number in self.wanted:
                found.append(x)
        return found
