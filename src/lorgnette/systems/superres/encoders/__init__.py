"""Image encoders: (B, 3, h, w) in network space [-1, 1] -> features (B, out_dim, h, w) on the same grid.

State-dict keys are those of the published implementations, so upstream checkpoints load strictly. Each encoder says how
many input pixels a feature sees to each side (`receptive_radius`), and of which number the sides of what it sees are
multiples (`window`; 1: any size).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from lorgnette.systems.superres.encoders.edsr import EDSR as EDSR, MeanShift as MeanShift
from lorgnette.systems.superres.encoders.rdn import RDN as RDN
from lorgnette.systems.superres.encoders.swinir import SwinIR as SwinIR
from lorgnette.systems.superres.names import encoder_name


class Encoder(Protocol):
    """What a decoder asks of an encoder, beside calling it."""

    out_dim: int
    window: int

    @property
    def receptive_radius(self) -> int: ...
    def __call__(self, x: Tensor) -> Tensor: ...


# What can stand before the decoders: published name -> class and constructor arguments.
ENCODERS: dict[str, tuple[Callable[..., nn.Module], Mapping[str, Any]]] = {
    "edsr-baseline": (EDSR, {"n_resblocks": 16, "n_feats": 64, "res_scale": 1.0}),
    "edsr": (EDSR, {"n_resblocks": 32, "n_feats": 256, "res_scale": 0.1}),
    "rdn": (RDN, {"blocks": 16, "convs": 8, "growth": 64}),  # configuration B, the published one
    "rdn-a": (RDN, {"blocks": 20, "convs": 6, "growth": 32}),
    "swinir": (SwinIR, {"embed_dim": 180, "depths": (6,) * 6, "num_heads": 6}),
    "swinir-light": (SwinIR, {"embed_dim": 60, "depths": (6,) * 4, "num_heads": 6}),
    "edsr-small": (EDSR, {"n_resblocks": 16, "n_feats": 32, "res_scale": 1.0}),
    "edsr-tiny": (EDSR, {"n_resblocks": 2, "n_feats": 16, "res_scale": 1.0}),  # for tests and first steps
}


def known_encoder(name: str) -> str:
    """The name in `ENCODERS` that is meant; a one-line ValueError where there is none."""
    known = encoder_name(name)
    if known not in ENCODERS:
        raise ValueError(f"model.encoder: {name!r} is not known; there is {', '.join(sorted(ENCODERS))}")
    return known


def make_encoder(name: str) -> Any:
    """The encoder of that name, untrained; a one-line ValueError where there is none."""
    kind, settings = ENCODERS[known_encoder(name)]
    return kind(**settings)


def deduced_encoder(state: Mapping[str, Tensor], source: str) -> str:
    """The encoder that tensors named `encoder.*` belong to, by the number of its blocks and channels.

    Raises:
        ValueError: none that is known, in one line.
    """

    def count(pattern: str) -> int:
        return max((int(m[1]) + 1 for name in state if (m := re.fullmatch(rf"encoder\.{pattern}", name))), default=0)

    def channels(name: str) -> int:
        return state[f"encoder.{name}"].shape[0] if f"encoder.{name}" in state else 0

    found: dict[str, Any] = {}
    said = ""
    if blocks := count(r"body\.(\d+)\.body\.0\.weight"):
        found = {"n_resblocks": blocks, "n_feats": channels("head.0.weight")}
        said = f"EDSR of {blocks} blocks of {found['n_feats']} channels"
    elif blocks := count(r"RDBs\.(\d+)\.LFF\.weight"):
        convs, growth = count(r"RDBs\.0\.convs\.(\d+)\.conv\.0\.weight"), channels("RDBs.0.convs.0.conv.0.weight")
        found = {"blocks": blocks, "convs": convs, "growth": growth}
        said = f"RDN of {blocks} blocks of {convs} convolutions of {growth} channels"
    elif groups := count(r"layers\.(\d+)\.conv\.weight"):
        depths = tuple(
            count(rf"layers\.{group}\.residual_group\.blocks\.(\d+)\.norm1\.weight") for group in range(groups)
        )
        found = {"embed_dim": channels("conv_first.weight"), "depths": depths}
        said = f"SwinIR of {found['embed_dim']} channels and depths {list(depths)}"
    if not found:
        raise ValueError(f"{source} has no encoder of EDSR, RDN or SwinIR; give the setting encoder")
    for name, (_, settings) in ENCODERS.items():
        if found.items() <= settings.items():
            return name
    raise ValueError(f"{source}: no known encoder is an {said}")
