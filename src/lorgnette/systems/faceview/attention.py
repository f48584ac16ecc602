"""Attention with the pose of the head in its low-rank path, and attention between views."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora import LoRAConfig, LoRALinear, get_lora_params, inject_lora
from lorgnette.nn.transformer import check_heads
from lorgnette.systems.faceview.pose import PER_ANGLE, in_radians, pose_features

PROJECTIONS = ["q", "k", "v", "out"]


class LoRALinearLayer(LoRALinear):
    """A frozen linear layer without bias and its low-rank update: (..., in_features) -> (..., out_features).

    The core's adapted layer under the name of the original page: `W x + (alpha / rank) B A x` with B = 0 at the start.

    Args:
        in_features: of the input.
        out_features: of the output.
        rank: of the update, at least 1.
        alpha: its strength; None: the rank, so that the scale is 1.

    Raises:
        ValueError: a rank below 1.
    """

    def __init__(self, in_features: int, out_features: int, rank: int = 4, alpha: float | None = 1.0):
        super().__init__(in_features, out_features, bias=False, r=rank, lora_alpha=rank if alpha is None else alpha)

    def get_trainable_parameters(self) -> list[nn.Parameter]:
        """The factors A (rank, in) and B (out, rank)."""
        return get_lora_params(self)


class PosedLinear(nn.Linear):
    """A linear layer over [features; pose features] whose columns for the pose are zero and do not learn.

    The pose counts through an adapter alone, which has columns for it like for the features; folding the adapter in
    fills them. So ViewDiff conditions its attention (Hoellein et al., arXiv 2403.01807).

    Args:
        features: columns that are learnt.
        pose_features: columns that are zero.
        out_features: of the output.
        bias: with a bias.
    """

    def __init__(self, features: int, pose_features: int, out_features: int, bias: bool = True):
        super().__init__(features + pose_features, out_features, bias)
        self.features = features
        nn.init.kaiming_uniform_(self.weight[:, :features], a=math.sqrt(5))
        with torch.no_grad():
            self.weight[:, features:] = 0
        self._hold_still()

    def _hold_still(self) -> None:
        features = self.features

        def without_pose(gradient: Tensor) -> Tensor:
            return torch.cat([gradient[:, :features], torch.zeros_like(gradient[:, features:])], 1)

        if self.weight.requires_grad:
            self.weight.register_hook(without_pose)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._hold_still()  # a copy of a parameter has no hooks


class PoseConditionedLoRAAttention(nn.Module):
    """Multi-head attention over tokens; the pose reaches queries, keys and values through the low-rank path alone.

    `q = W_q h + s B_q A_q [h; f(pose)]`, k and v alike, and `out = W_o a + s B_o A_o a`, with f the angles, their sines
    and cosines. The base is frozen, and B is 0 at the start. Of a single token without a context the attention weights
    are all 1: q and k then have no effect.

    Args:
        feature_dim: width of a token.
        pose_dim: angles of a pose.
        num_heads: a divisor of `feature_dim`.
        rank: of the updates; 0: none, the base alone, which is then trained.
        alpha: strength of the updates.
        dropout: on the attention weights.
        kv_dim: width of the context's tokens; None: `feature_dim`.
        bias: of the projections.

    Raises:
        ValueError: `num_heads` does not divide `feature_dim`.
    """

    def __init__(
        self,
        feature_dim: int = 512,
        pose_dim: int = 3,
        num_heads: int = 8,
        rank: int = 4,
        alpha: float = 1.0,
        dropout: float = 0.0,
        kv_dim: int | None = None,
        bias: bool = True,
    ):
        super().__init__()
        check_heads(feature_dim, num_heads)
        columns, kv_dim = PER_ANGLE * pose_dim, kv_dim or feature_dim
        self.num_heads, self.pose_dim, self.dropout = num_heads, pose_dim, dropout
        self.q = PosedLinear(feature_dim, columns, feature_dim, bias)
        self.k = PosedLinear(kv_dim, columns, feature_dim, bias)
        self.v = PosedLinear(kv_dim, columns, feature_dim, bias)
        self.out = nn.Linear(feature_dim, feature_dim, bias)
        if rank:
            inject_lora(self, LoRAConfig(r=rank, lora_alpha=alpha, target_modules=PROJECTIONS))

    def forward(
        self,
        features: Tensor,
        pose: Tensor,
        context: Tensor | None = None,
        attn_mask: Tensor | None = None,
        return_attention: bool = False,
    ) -> Any:
        """Attend.

        Args:
            features: (B, D), or tokens (B, N, D).
            pose: (B, P) radians, or one for each token (B, N, P), where there is no context.
            context: tokens (B, M, kv_dim) that are attended to; None: the features themselves.
            attn_mask: True where a query may see a key, or a term for the scores; broadcast to (B, H, N, M).
            return_attention: also give the weights.

        Returns:
            The shape of `features`; with `return_attention` a pair with the weights (B, H, N, M).

        Raises:
            ValueError: shapes that do not fit, or a pose in degrees.
        """
        if pose.shape[-1] != self.pose_dim:
            raise ValueError(f"pose: {pose.shape[-1]} angles were given; {self.pose_dim} are expected")
        condition = pose_features(in_radians(pose, "rad"))
        attended, weights = self.attend(features, condition, context, attn_mask)
        return (attended, weights) if return_attention else attended

    def attend(
        self, features: Tensor, condition: Tensor, context: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same with the features of the pose (B, 3 P) in its place: (output, weights)."""
        single = features.ndim == 2
        x = features[:, None] if single else features
        seen = x if context is None else context
        k, v = (_heads(layer(_posed(seen, condition)), self.num_heads) for layer in (self.k, self.v))
        attended, weights = attention(
            _heads(self.q(_posed(x, condition)), self.num_heads), k, v, attn_mask, self.dropout * self.training
        )
        y = self.out(attended)
        return (y[:, 0] if single else y), weights


class CrossViewAttention(nn.Module):
    """Views of one person see each other: (B n, D) -> (B n, D), residual; changes nothing at the start.

    The views of a sample stand one after another: row `sample * n_views + view`.

    Args:
        feature_dim: width of a token.
        num_heads: a divisor of it.
        n_views: of each sample; with 1 a view sees itself alone.
        rank: of low-rank updates on a frozen base; 0: the base is trained.
        dropout: on the attention weights.
        exclude_self: a view does not see itself, but the others.

    Raises:
        ValueError: `num_heads` does not divide `feature_dim`, or a single view would see nothing.
    """

    def __init__(
        self,
        feature_dim: int = 512,
        num_heads: int = 8,
        n_views: int = 5,
        rank: int = 0,
        dropout: float = 0.0,
        exclude_self: bool = False,
    ):
        super().__init__()
        check_heads(feature_dim, num_heads)
        if n_views < 1 + exclude_self:
            raise ValueError(f"n_views: {n_views} is too small; at least {1 + exclude_self} works")
        self.num_heads, self.n_views, self.dropout, self.exclude_self = num_heads, n_views, dropout, exclude_self
        self.norm = nn.LayerNorm(feature_dim)
        self.q, self.k, self.v, self.out = (nn.Linear(feature_dim, feature_dim) for _ in range(4))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if rank:
            inject_lora(self, LoRAConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS))

    def forward(self, x: Tensor, return_attention: bool = False, view_mask: Tensor | None = None) -> Any:
        """Let the views of each sample see each other.

        Args:
            x: (B n, D), or tokens (B n, N, D).
            return_attention: also give the weights (B, H, n N, n N).
            view_mask: (B n) bool, False for views that nobody sees.

        Raises:
            ValueError: the batch is no multiple of `n_views`.
        """
        if len(x) % self.n_views:
            raise ValueError(
                f"批次大小({len(x)})必须是视角数({self.n_views})的倍数"
                f" (批次大小必须是n_views的倍数): a batch of {len(x)} is no multiple of n_views={self.n_views}; "
                f"{len(x) // self.n_views * self.n_views or self.n_views} works (drop_last=True in a DataLoader)"
            )
        groups, tokens = len(x) // self.n_views, 1 if x.ndim == 2 else x.shape[1]
        grouped = x.reshape(groups, self.n_views * tokens, x.shape[-1])
        allowed: Tensor | None = None
        if view_mask is not None:
            allowed = view_mask.reshape(groups, 1, 1, self.n_views).repeat_interleave(tokens, -1)
        if self.exclude_self:
            view = torch.arange(self.n_views, device=x.device).repeat_interleave(tokens)
            others = view[:, None] != view
            allowed = others if allowed is None else allowed & others
        h = self.norm(grouped)
        q, k, v = (_heads(layer(h), self.num_heads) for layer in (self.q, self.k, self.v))
        attended, weights = attention(q, k, v, allowed, self.dropout * self.training)
        y = x + self.out(attended).reshape(x.shape)
        return (y, weights) if return_attention else y


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scaled dot products (Vaswani et al., arXiv 1706.03762): (B, H, N, d) -> (B, N, H d) and weights (B, H, N, M).

    A query that may see nothing gets zeros.
    """
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights.nan_to_num(0.0)
    dropped = torch.dropout(weights, dropout, dropout > 0)
    return (dropped @ v).transpose(1, 2).flatten(2), weights


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _posed(tokens: Tensor, condition: Tensor) -> Tensor:
    """[tokens; condition], the condition for all tokens unless there is one for each."""
    if condition.ndim == 2:
        condition = condition[:, None].expand(-1, tokens.shape[1], -1)
    return torch.cat([tokens, condition.to(tokens.dtype)], -1)


def expand_to_multiview(x: Tensor, n_views: int) -> Tensor:
    """(B, ...) -> (B n, ...): each sample `n_views` times, one after another."""
    return x.repeat_interleave(n_views, 0)


def collapse_from_multiview(x: Tensor, n_views: int) -> Tensor:
    """(B n, ...) -> (B, ...): the mean of each sample's views.

    Raises:
        ValueError: the batch is no multiple of `n_views`.
    """
    if len(x) % n_views:
        raise ValueError(f"a batch of {len(x)} is no multiple of n_views={n_views}")
    return x.reshape(-1, n_views, *x.shape[1:]).mean(1)
