"""State dicts of microsoft/LoRA (`loralib`), read.

Linear          lora_A (r, in)               lora_B (out, r)
Embedding       lora_A (r, rows)             lora_B (width, r), both transposed
MergedLinear    lora_A (r * n, in)           lora_B (out / len * n, r), n of `len` equal parts of `out` adapted
Conv2d          lora_A (r * k, in * k)       lora_B (out / groups * k, r * k), and the base inside it as `conv`

Neither strength nor which parts of a MergedLinear are adapted is in the file. The update of a Conv2d is
`(B @ A).view(weight.shape)`, which is no product of a k x k and a 1 x 1 convolution of rank r: it is taken over
by a singular value decomposition, exact to rounding and of the rank it really has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.parameter import part_name
from lorgnette.lora.state import base_tensors
from lorgnette.lora.targets import Target

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def read_loralib(
    model: nn.Module, state: Mapping[str, Tensor], alpha: float, enable_lora: Sequence[bool] | None
) -> tuple[dict[str, Target], dict[str, Tensor]]:
    """Where the adapters of such a state go, and its tensors under the model's names.

    Args:
        model: the base.
        state: as from `loralib.lora_state_dict`, or a whole `state_dict()`.
        alpha: `lora_alpha` of the layers.
        enable_lora: of every `MergedLinear`; None where all of its parts are adapted.

    Raises:
        ValueError: the factors of a layer fit no layout above, or `enable_lora` is needed and missing.
    """
    base = base_tensors(model)
    targets: dict[str, Target] = {}
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        owner, _, part = key.rpartition(".")
        if part == "lora_B":
            continue
        if part != "lora_A":
            name = key if key in base else key.replace(".conv.", ".")
            # A whole state dict holds the base too: only what differs from the model's belongs to the adapter.
            same = name in base and base[name].shape == tensor.shape and torch.equal(tensor.to(base[name]), base[name])
            if not same:
                tensors[name] = tensor
            continue
        if f"{owner}.lora_B" not in state:
            raise ValueError(f"{owner!r} has no lora_B: the state is incomplete")
        layer = dict(model.named_modules()).get(owner)
        if layer is None:  # reported by the load, with the nearest name there is
            tensors |= {key: tensor, f"{owner}.lora_B": state[f"{owner}.lora_B"]}
            continue
        for name, (target, A, B) in _read_layer(owner, layer, tensor, state[f"{owner}.lora_B"], alpha, enable_lora):
            targets[name] = target
            tensors |= {f"{name}.lora_A": A, f"{name}.lora_B": B}
    return targets, tensors


def _read_layer(
    name: str, layer: nn.Module, A: Tensor, B: Tensor, alpha: float, enable_lora: Sequence[bool] | None
) -> list[tuple[str, tuple[Target, Tensor, Tensor]]]:
    if A.dim() != 2 or B.dim() != 2:
        raise ValueError(f"{name!r} has factors of {A.dim()} and {B.dim()} dimensions; loralib's have 2")
    if isinstance(layer, _CONVOLUTIONS):
        return [(name, _read_convolution(name, layer, A, B, alpha))]
    if isinstance(layer, nn.Linear) and (A.shape[0] != B.shape[1] or B.shape[0] != layer.out_features):
        return _read_merged(name, layer, A, B, alpha, enable_lora)
    target = Target(name, LoRAConfig(r=A.shape[0], lora_alpha=alpha))
    return [(name, (target, B.mT, A.mT) if isinstance(layer, nn.Embedding) else (target, A, B))]


def _read_merged(
    name: str, layer: nn.Linear, A: Tensor, B: Tensor, alpha: float, enable_lora: Sequence[bool] | None
) -> list[tuple[str, tuple[Target, Tensor, Tensor]]]:
    rank = B.shape[1]
    count, rest = divmod(A.shape[0], rank)
    if rest or not count or B.shape[0] % count or layer.out_features % (size := B.shape[0] // count):
        raise ValueError(
            f"{name!r} has factors {_size(A)} and {_size(B)}, which fit no layer of {layer.out_features} outputs"
        )
    total = layer.out_features // size
    if enable_lora is None and count < total:
        example = [True] * (count - 1) + [False] * (total - count) + [True]
        raise ValueError(
            f"enable_lora: {name!r} adapts {count} of {total} parts, and the file does not say which;"
            f" enable_lora={example} is one answer"
        )
    enabled = [True] * total if enable_lora is None else list(enable_lora)
    if len(enabled) != total or sum(enabled) != count:
        raise ValueError(f"enable_lora: {enabled} does not fit {name!r}, which adapts {count} of {total} parts")
    found = []
    for number, place in enumerate(place for place, on in enumerate(enabled) if on):
        part = "qkv"[place] if total == 3 else f"{place * size}:{(place + 1) * size}"
        target = Target(name, LoRAConfig(r=rank, lora_alpha=alpha), "weight", (place * size, (place + 1) * size))
        own_A, own_B = A[number * rank : (number + 1) * rank], B[number * size : (number + 1) * size]
        found.append((f"{name}.{part_name(part)}", (target, own_A, own_B)))
    return found


def _read_convolution(name: str, layer: _ConvNd, A: Tensor, B: Tensor, alpha: float) -> tuple[Target, Tensor, Tensor]:
    weight, kernel = layer.weight, _kernel(name, layer)
    rank, rest = divmod(A.shape[0], kernel)
    if rest or not rank or A.shape[0] != B.shape[1] or A.shape[1] * B.shape[0] != weight.numel():
        raise ValueError(f"{name!r} has factors {_size(A)} and {_size(B)}, which fit no kernel {_size(weight)}")
    scaling = alpha / rank
    if kernel == 1 and weight.dim() == 4 and B.shape[0] == weight.shape[0]:
        ones = (1,) * (weight.dim() - 2)
        config = LoRAConfig(r=rank, lora_alpha=alpha)
        return Target(name, config), A.reshape(*A.shape, *ones), B.reshape(*B.shape, *ones)
    # As loralib computes it; then the factors of the same update, of the rank it has.
    delta = (B.double() @ A.double()).reshape(weight.shape)
    new_B, new_A = _factorised(delta.flatten(1))
    rank = new_A.shape[0]
    new_A = new_A.to(A.dtype).reshape(rank, *weight.shape[1:])
    new_B = new_B.to(B.dtype).reshape(-1, rank, *(1,) * (weight.dim() - 2))
    return Target(name, LoRAConfig(r=rank, lora_alpha=scaling * rank)), new_A, new_B


def _factorised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`B (rows, r)` and `A (r, columns)` with `B A = matrix`, of the rank that the matrix has."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    tiny = 1e-12 * S[:1].sum()
    rank = max(1, int((tiny < S).sum()))
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * Vh[:rank]


def _kernel(name: str, layer: _ConvNd) -> int:
    sizes = set(layer.kernel_size)
    if len(sizes) > 1 or (sizes != {1} and len(layer.kernel_size) != 2):
        raise ValueError(f"{name!r} has a kernel {layer.kernel_size}; loralib's are square and of 2 dimensions")
    return sizes.pop()


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
