"""The mesh decoder of TRELLIS (Xiang et al., arXiv 2412.01506) and SAM 3D Objects: structured latents -> cube features.

Pure PyTorch, on any device: no kernels of others. Names in the state dict are those of the published weights.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.nn.transformer import check_heads
from lorgnette.systems.mesh.convolution import PointwiseConv3d, SubmanifoldConv3d
from lorgnette.systems.mesh.structure import Structure, Structures

OUT_CHANNELS = {False: 53, True: 101}
"""Values of a cube, without and with colours: 8 signed distances, 24 shifts, 21 weights (and 48 colours, normals)."""


class SLatMeshDecoder(nn.Module):
    """(N, latent) features of the active voxels of a coarse grid -> (64 N, 53 or 101) of the voxels four times as fine.

    Args:
        resolution: of the coarse grid; the fine one has four times as many cubes along an axis.
        model_channels: width C; `8 * num_groups` divides it.
        latent_channels: of the input.
        num_blocks: of the transformer.
        num_heads: a divisor of the width.
        mlp_ratio: width inside a block's MLP in multiples of C.
        attn_mode: 'swin' (windows, every second block's shifted by half of one) or 'full' (each item's voxels to all).
        window_size: side of a window in voxels.
        pe_mode: 'ape', sine and cosine of the coordinates; published weights have no other.
        qk_rms_norm: whether queries and keys are normalised.
        num_groups: of the group norms; published weights have 32.
        use_color: whether there are colours and normals.

    Raises:
        ValueError: a setting outside what is listed.
    """

    def __init__(
        self,
        resolution: int = 64,
        model_channels: int = 768,
        latent_channels: int = 8,
        num_blocks: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        attn_mode: str = "swin",
        window_size: int = 8,
        pe_mode: str = "ape",
        qk_rms_norm: bool = False,
        num_groups: int = 32,
        use_color: bool = False,
    ) -> None:
        super().__init__()
        check_heads(model_channels, num_heads)
        if attn_mode not in ("swin", "full"):
            raise ValueError(f"attn_mode: {attn_mode!r} is not known; 'swin' and 'full' are")
        if pe_mode != "ape":
            raise ValueError(f"pe_mode: {pe_mode!r} is not known; 'ape' is")
        if num_groups < 1 or model_channels % (8 * num_groups):
            raise ValueError(f"num_groups: 8 x {num_groups} does not divide the width {model_channels}")
        if window_size < 2 or resolution < 1:
            raise ValueError(f"window_size {window_size} must be at least 2, resolution {resolution} at least 1")
        self.resolution, self.use_color = resolution, use_color
        self.input_layer = nn.Linear(latent_channels, model_channels)
        side = window_size if attn_mode == "swin" else 0
        self.blocks = nn.ModuleList(
            TransformerBlock(model_channels, num_heads, mlp_ratio, side, side // 2 * (i % 2), qk_rms_norm)
            for i in range(num_blocks)
        )
        widths = model_channels, model_channels // 4, model_channels // 8
        self.upsample = nn.ModuleList(SubdivideBlock(a, b, num_groups) for a, b in itertools.pairwise(widths))
        self.out_layer = nn.Linear(widths[-1], OUT_CHANNELS[use_color])
        self._structures = Structures()
        self._start()

    def features(self, coords: Tensor, feats: Tensor) -> tuple[Tensor, Tensor]:
        """The fine voxels and their values.

        Args:
            coords: (N, 4) integers (batch item, x, y, z), sorted by the item, within [0, resolution).
            feats: (N, latent).

        Returns:
            (64 N, 4) coordinates within [0, 4 resolution), and (64 N, 53 or 101): see `flexicubes.extract`.

        Raises:
            ValueError: coordinates or features that do not fit.
        """
        structure = self.structure(coords)
        if feats.shape != (len(coords), self.input_layer.in_features):
            wanted = len(coords), self.input_layer.in_features
            raise ValueError(f"feats: {tuple(feats.shape)} must be {wanted}, a row for each voxel")
        return structure.children.children.coords, self.values(structure, feats)

    def values(self, structure: Structure, feats: Tensor) -> Tensor:
        """The values of the fine voxels, from features (N, latent) of those that a structure holds."""
        x = self.input_layer(feats)
        x = x + _positions(structure.coords[:, 1:], x.shape[-1]).to(x.dtype)
        for block in self.blocks:
            x = block(x, structure)
        for block in self.upsample:
            x, structure = block(x, structure), structure.children
        return self.out_layer(x)

    def structure(self, coords: Tensor) -> Structure:
        """The voxels with what was computed for them before."""
        if len(coords) and int(coords[..., 1:].max()) >= self.resolution:
            raise ValueError(f"coords: {int(coords[..., 1:].max())} lies outside a grid of {self.resolution} voxels")
        return self._structures(coords)

    forward = features

    def _start(self) -> None:
        """Weights as training begins with: a sub-division that adds nothing, and no output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.out_layer.weight)
        for module in self.modules():
            if isinstance(module, SubdivideBlock):
                nn.init.zeros_(module.second.conv.weight)


class TransformerBlock(nn.Module):
    """Attention and MLP, each after a norm without weights: (N, C) -> (N, C)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, side: int, shift: int, qk_rms_norm: bool) -> None:
        super().__init__()
        self.attn = WindowedAttention(width, heads, side, shift, qk_rms_norm)
        self.mlp = FeedForward(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, structure: Structure) -> Tensor:
        x = x + self.attn(_normed(x), structure)
        return x + self.mlp(_normed(x))


class FeedForward(nn.Module):
    """Two linear layers with a GELU (by tanh) between: (N, C) -> (N, C)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class WindowedAttention(nn.Module):
    """Attention among the voxels of a window: (N, C) -> (N, C).

    Windows of like sizes are computed together, filled up by a quarter at most; nothing of N x N values is made.
    """

    def __init__(self, width: int, heads: int, side: int, shift: int, qk_rms_norm: bool) -> None:
        super().__init__()
        self.heads, self.side, self.shift = heads, side, shift
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.q_rms_norm = HeadNorm(heads, width // heads) if qk_rms_norm else None
        self.k_rms_norm = HeadNorm(heads, width // heads) if qk_rms_norm else None

    def forward(self, x: Tensor, structure: Structure) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        if self.q_rms_norm is not None and self.k_rms_norm is not None:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        buckets, place = structure.windows(self.side, self.shift)
        attended = []
        for voxels, inside in buckets:
            q_WHLD, k_WHLD, v_WHLD = (part[voxels].transpose(1, 2) for part in (q, k, v))
            mask = None if inside is None else inside[:, None, None]
            attended.append(F.scaled_dot_product_attention(q_WHLD, k_WHLD, v_WHLD, mask).transpose(1, 2).flatten(0, 1))
        return self.to_out(torch.cat(attended)[place].flatten(1))


class HeadNorm(nn.Module):
    """RMS norm of each head's vector: (N, heads, D) -> the same."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        return (F.normalize(_at_least_single(x), dim=-1) * self.gamma * x.shape[-1] ** 0.5).to(x.dtype)


class SubdivideBlock(nn.Module):
    """Each voxel becomes eight, between two convolutions, beside a short cut: (N, in) -> (8 N, out)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.act_layers = nn.ModuleList([ItemNorm(groups, in_channels)])
        first, second = SubmanifoldConv3d(in_channels, out_channels), SubmanifoldConv3d(out_channels, out_channels)
        self.out_layers = nn.ModuleList([Conv(first), ItemNorm(groups, out_channels), nn.SiLU(), Conv(second)])
        self.skip_connection = Conv(PointwiseConv3d(in_channels, out_channels))

    @property
    def second(self) -> Any:
        """The second convolution."""
        return self.out_layers[3]

    def forward(self, x: Tensor, structure: Structure) -> Tensor:
        first: Any = self.out_layers[0]
        hidden = first.conv.of_children(F.silu(self.act_layers[0](x, structure)), structure)
        hidden = F.silu(self.out_layers[1](hidden, structure.children))
        hidden = self.second.conv(hidden, structure.children)
        return hidden + self.skip_connection.conv(x)[:, None].expand(-1, 8, -1).flatten(0, 1)


class Conv(nn.Module):
    """A convolution under the name that published weights give it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv


class ItemNorm(nn.Module):
    """Group norm over all voxels of a batch item: (N, C) -> (N, C)."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, structure: Structure) -> Tensor:
        items = (F.group_norm(x[rows].t()[None], self.groups, self.weight, self.bias) for rows in structure.items)
        return torch.cat([item[0].t() for item in items])


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(_at_least_single(x), x.shape[-1:], eps=1e-6).to(x.dtype)


def _at_least_single(x: Tensor) -> Tensor:
    """In 32 bits where it had 16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _positions(coords: Tensor, width: int) -> Tensor:
    """(N, 3) -> (N, width): sines and cosines of each coordinate one after the other, filled up with zeros."""
    count = width // 3 // 2
    frequencies = 10000.0 ** -(torch.arange(count, dtype=torch.float32, device=coords.device) / count)
    angles = coords.float()[..., None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], -1).flatten(1), (0, width - 6 * count))
