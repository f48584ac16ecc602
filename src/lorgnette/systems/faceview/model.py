"""The mapping of face embeddings between poses: a transformer decoder over several tokens of an embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.common.text import nearest
from lorgnette.systems.faceview.attention import CrossViewAttention, PoseConditionedLoRAAttention
from lorgnette.systems.faceview.pose import PER_ANGLE, Unit, in_radians, pose_features
from lorgnette.systems.faceview.projection import LightweightFaceProjectionLayer
from lorgnette.systems.faceview.steps import StepPath

ON_TOP = ("projection.", "cross_view.", "steps.")
"""Parts that a base may lack: they change nothing until they are trained."""
GATE_ANGLE = math.pi / 4


class AngleConditionedLayerNorm(nn.Module):
    """A layer norm whose scale and shift follow the pose: plain at the start (FiLM, Perez et al., arXiv 1709.07871)."""

    def __init__(self, width: int, columns: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.condition = nn.Linear(columns, 2 * width) if columns else None
        if self.condition is not None:
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, D), (B, columns) -> (B, T, D)."""
        if self.condition is None:
            return self.norm(x)
        scale, shift = self.condition(condition)[:, None].chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class DecoderLayer(nn.Module):
    """Attention among the tokens, attention to pose and keypoints, an MLP; norm first, each residual."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, activation: str, pose_dim: int, norm_columns: int,
        cross: bool, rank: int, alpha: float,
    ):  # fmt: skip
        super().__init__()

        def posed() -> PoseConditionedLoRAAttention:
            return PoseConditionedLoRAAttention(width, pose_dim, heads, rank, alpha, dropout)

        self.self_attn, self.cross_attn = posed(), posed() if cross else None
        self.norm1, self.norm3 = (AngleConditionedLayerNorm(width, norm_columns) for _ in range(2))
        self.norm2 = AngleConditionedLayerNorm(width, norm_columns) if cross else None
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = F.gelu if activation == "gelu" else F.relu
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.self_attn.attend(self.norm1(x, condition), condition, attn_mask=mask)[0])
        if self.cross_attn is not None and self.norm2 is not None:
            x = x + self.dropout(self.cross_attn.attend(self.norm2(x, condition), condition, memory)[0])
        hidden = self.dropout(self.activation(self.linear1(self.norm3(x, condition))))
        return x + self.dropout(self.linear2(hidden))


class EnhancedTransformerDecoderOnly3D(nn.Module):
    """Maps a face embedding from the pose it was taken in to another, frontal unless said otherwise.

    The embedding is spread over `num_tokens` tokens; the decoder's memory are source pose, target pose and
    keypoints. Its last layer starts at zero: the residual is 0 until it is trained. With `num_tokens=1`, the
    literal form of the original page, every self-attention is over one token, whose weight is 1.

    Args:
        d_model: D, of embedding and tokens; 512 of InsightFace.
        nhead: heads, a divisor of D.
        num_layers: decoder layers.
        dim_feedforward: inside their MLPs.
        dropout: in attention and MLPs.
        activation: 'gelu' or 'relu'.
        num_keypoints: K.
        pose_dim: angles of a pose: (pitch, yaw, roll).
        use_lora_attention: freeze the projections of all attentions and give them adapters. Weights that nobody has
            trained are nothing to adapt: load a base first (`load_base`).
        use_projection_layer: with a `LightweightFaceProjectionLayer` before the decoder.
        use_cross_view: with a `CrossViewAttention` behind it, for `multiview_input`.
        n_views: of each sample then.
        rank: of the adapters.
        lora_alpha: their strength.
        use_angle_pe: the source pose is added to the tokens.
        use_angle_conditioning: the norms follow the source pose.
        use_pose_attention: tokens attend to poses and keypoints.
        voxel_resolution: of the projection layer.
        num_tokens: that an embedding is spread over, a divisor of D; each gives a part of the residual.
        angle_unit: of all poses: 'rad', or 'deg' as InsightFace gives them.
        gate: 'dream' multiplies the residual by sigmoid(10 (|yaw - target yaw| / 45 degrees - 1)) (Cao et al., arXiv
            1803.00839), which leaves what is frontal already as it is; 'none' does not.
        use_steps: with a `StepPath` before the decoder, which learns quickly from few persons.

    Raises:
        ValueError: sizes that do not go into each other, or an unknown word.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_layers: int = 4,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Literal["gelu", "relu"] = "gelu",
        num_keypoints: int = 5,
        pose_dim: int = 3,
        use_lora_attention: bool = True,
        use_projection_layer: bool = True,
        use_cross_view: bool = False,
        n_views: int = 5,
        rank: int = 4,
        lora_alpha: float = 1.0,
        use_angle_pe: bool = True,
        use_angle_conditioning: bool = True,
        use_pose_attention: bool = True,
        voxel_resolution: int = 16,
        num_tokens: int = 4,
        angle_unit: Unit = "rad",
        gate: Literal["dream", "none"] = "none",
        use_steps: bool = False,
    ):
        super().__init__()
        if num_tokens < 1 or d_model % num_tokens:
            raise ValueError(f"num_tokens: {num_tokens} does not divide d_model {d_model}")
        for name, word, words in (("activation", activation, ("gelu", "relu")), ("angle_unit", angle_unit,
                                  ("rad", "deg")), ("gate", gate, ("dream", "none"))):  # fmt: skip
            if word not in words:
                raise ValueError(f"{name}: {word!r} does not work; {' or '.join(map(repr, words))} does")
        self.d_model, self.num_tokens, self.num_keypoints, self.pose_dim = d_model, num_tokens, num_keypoints, pose_dim
        self.angle_unit: Unit = angle_unit
        self.gate = gate
        columns, part = PER_ANGLE * pose_dim, d_model // num_tokens
        self.projection = (
            LightweightFaceProjectionLayer(d_model, num_keypoints, voxel_resolution) if use_projection_layer else None
        )
        self.steps = StepPath(d_model, 2 * columns) if use_steps else None
        self.split = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(num_tokens))
        self.angle_pe = nn.Linear(columns, d_model) if use_angle_pe else None
        self.source_token = self.target_token = self.keypoint_token = None
        if use_pose_attention:
            self.source_token, self.target_token = nn.Linear(columns, d_model), nn.Linear(columns, d_model)
            self.keypoint_token = nn.Linear(3, d_model)
            self.keypoint_place = nn.Parameter(0.02 * torch.randn(num_keypoints, d_model))
        norm_columns, rank = columns if use_angle_conditioning else 0, rank if use_lora_attention else 0
        sizes = d_model, nhead, dim_feedforward, dropout, activation, pose_dim
        self.layers = nn.ModuleList(
            DecoderLayer(*sizes, norm_columns, use_pose_attention, rank, lora_alpha) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        nn.init.constant_(self.norm.weight, d_model**-0.5)  # embeddings have length 1: no first step is longer
        self.head = nn.ModuleList(nn.Linear(d_model, part) for _ in range(num_tokens))
        for layer in self.head:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.cross_view = CrossViewAttention(d_model, nhead, n_views) if use_cross_view else None

    def forward(
        self,
        src: Tensor,
        angles: Tensor,
        keypoints_3d: Tensor | None = None,
        pose: Tensor | None = None,
        src_mask: Tensor | None = None,
        return_residual: bool = True,
        multiview_input: bool = False,
    ) -> Tensor:
        """Map embeddings.

        Args:
            src: (B, D), of any length; a unit one is usual.
            angles: (B, P or more): the pose that each was taken in; the first P count.
            keypoints_3d: (B, K, 3), see the projection layer; without one they may be left out.
            pose: (B, P): the pose that is wanted; None: frontal, all zero.
            src_mask: (T, T), True where a token may see another.
            return_residual: give what is to be added to `src`, and not the sum.
            multiview_input: the rows are views of one sample after another, and may see each other.

        Returns:
            (B, D): the residual, or with `return_residual=False` the sum.

        Raises:
            ValueError: shapes that do not fit, poses in degrees, keypoints that are missing, or a batch that is no
                multiple of `n_views`.
        """
        source, target = self._poses(src, angles, pose)
        if self.projection is not None and keypoints_3d is None:
            raise ValueError("keypoints_3d: missing; the projection layer needs (B, K, 3)")
        seen = src if self.projection is None else self.projection(src, keypoints_3d, target, source)
        condition, wanted = (pose_features(p).to(src.dtype) for p in (source, target))
        lifted = seen
        if self.steps is not None:
            lifted = self.steps(seen, torch.cat([condition, wanted], -1), source[:, 1:2] - target[:, 1:2])
        x = torch.stack([layer(lifted) for layer in self.split], 1)
        if self.angle_pe is not None:
            x = x + self.angle_pe(condition)[:, None]
        memory = self._memory(condition, wanted, keypoints_3d)
        for layer in self.layers:
            x = layer(x, memory, condition, src_mask)
        tokens = self.norm(x).unbind(1)
        residual = torch.cat([layer(token) for layer, token in zip(self.head, tokens, strict=True)], -1)
        residual = residual + (seen - src)
        if self.gate == "dream":
            residual = residual * dream_gate(source[:, 1:2], target[:, 1:2]).to(residual.dtype)
        residual = residual + (lifted - seen)  # what needs no turn goes through no step: no gate is needed
        if multiview_input and self.cross_view is not None:
            residual = self.cross_view(src + residual) - src
        return residual if return_residual else src + residual

    def _poses(self, src: Tensor, angles: Tensor, pose: Tensor | None) -> tuple[Tensor, Tensor]:
        """Source and target, checked, in radians."""
        if src.ndim != 2 or src.shape[1] != self.d_model:
            raise ValueError(f"src: shape {tuple(src.shape)} does not work; (B, {self.d_model}) does")
        for name, given in (("angles", angles), ("pose", pose)):
            if given is not None and (
                given.ndim != 2 or given.shape[0] != src.shape[0] or given.shape[1] < self.pose_dim
            ):
                works = f"({src.shape[0]}, {self.pose_dim})"
                raise ValueError(f"{name}: shape {tuple(given.shape)} does not work; {works} does")
        source = in_radians(angles[:, : self.pose_dim], self.angle_unit, "angles")
        if pose is None:
            return source, torch.zeros_like(source)
        return source, in_radians(pose[:, : self.pose_dim], self.angle_unit, "pose")

    def _memory(self, source: Tensor, target: Tensor, keypoints: Tensor | None) -> Tensor:
        if self.source_token is None or self.target_token is None or self.keypoint_token is None:
            return source[:, None]
        tokens = torch.stack([self.source_token(source), self.target_token(target)], 1)
        if keypoints is None:
            return tokens
        if keypoints.shape[1:] != (self.num_keypoints, 3):
            wanted = f"(B, {self.num_keypoints}, 3)"
            raise ValueError(f"keypoints_3d: shape {tuple(keypoints.shape)} does not work; {wanted} does")
        return torch.cat([tokens, self.keypoint_token(keypoints.to(source.dtype)) + self.keypoint_place], 1)

    def load_base(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a base: a model of the same sizes without adapters, with or without the parts on top.

        Raises:
            ValueError: a tensor that is unknown, missing or of another shape, such as that of another `d_model`.
        """
        own = {name: value for name, value in self.state_dict().items() if "lora_" not in name}
        for name, value in state.items():
            if name not in own:
                raise ValueError(f"the base has {name!r}, which is no part of this network{nearest(name, own)}")
            if value.shape != own[name].shape:
                shapes = f"{tuple(value.shape)}, here {tuple(own[name].shape)}"
                raise ValueError(
                    f"the base is of other sizes: {name} has shape {shapes}; is d_model {self.d_model} right?"
                )
        if missing := [name for name in own if name not in state and not name.startswith(ON_TOP)]:
            raise ValueError(f"the base lacks {missing[0]!r} and {len(missing) - 1} more")
        self.load_state_dict(dict(state), strict=False)

    def get_trainable_parameters(self, include_base: bool = True) -> list[nn.Parameter]:
        """What requires gradients; without `include_base` the adapters alone."""
        adapters = {id(parameter) for parameter in self.get_lora_parameters()}
        return [p for p in self.parameters() if p.requires_grad and (include_base or id(p) in adapters)]

    def get_lora_parameters(self) -> list[nn.Parameter]:
        """The factors of all adapters."""
        return lora.get_lora_params(self)


def dream_gate(yaw: Tensor, target: Tensor) -> Tensor:
    """How much of a residual counts: 4.5e-5 without a turn, 1/2 at 45 degrees, nearly 1 in profile."""
    return torch.sigmoid(10 * ((yaw - target).abs() / GATE_ANGLE - 1))
