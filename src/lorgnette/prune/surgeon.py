"""Which channels to take out, and how what reads them makes up for it: the optimal brain surgeon (Hassibi and Stork,
NIPS 1992) for whole channels, as ZipLM has it (Kurtic, Frantar and Alistarh, NeurIPS 2023).

A layer answers `W X` to what it sees on calibration data. The columns S of `W` can be made up for by the others: with
`G = (X X^T)^-1`, the least squared error without them is `tr(W_S (G_SS)^-1 W_S^T)`, which is what
`W - W_S (G_SS)^-1 G_S` reaches. Channels go one by one, each time the one whose error is least, summed over all layers
that read it, each in units of its own answers: of two channels that say the same only one goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.common.modules import evaluating
from lorgnette.prune.channels import Group, Layer, Reader

PLACES = 4
"""Columns of X that are looked at in each call of a layer, in multiples of its rows: at places drawn at random."""
DAMPING = 1e-4
"""Added to the diagonal of X X^T, as a share of its mean."""


class Surgeon:
    """Layers of a network, with what they see.

    Args:
        model: on the processor.
        groups: whose readers are looked at.
        passes: gives the model what it is calibrated on. None: X X^T is taken for the identity, so that the channels
            with the smallest weights go, and nothing makes up for them.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], passes: Callable[[], object] | None):
        layers = list({reader.layer: None for group in groups for reader in group.readers})
        self._inverse: dict[nn.Module, Tensor] = {}
        if passes is None:
            for layer in layers:
                self._inverse[layer] = torch.eye(layer.weight[0].numel(), dtype=torch.float64)
        else:
            for layer, moment in _moments(model, layers, passes).items():
                damping = DAMPING * moment.diagonal().mean() + 1e-12
                self._inverse[layer] = torch.linalg.inv(moment + damping * torch.eye(len(moment), dtype=moment.dtype))

    def silence(self, group: Group, count: int) -> list[int]:
        """Choose `count` channels of a group to take out; what reads them reads zeros then, and makes up for it."""
        parts = [_Part(reader, self._inverse[reader.layer]) for reader in group.readers]
        left, gone = list(range(group.size)), []
        for _ in range(count):
            losses = torch.stack([part.losses(left) for part in parts]).sum(0)
            gone.append(left.pop(int(losses.argmin())))
            for part in parts:
                part.remove(gone[-1])
        for part in parts:
            part.write()
        return sorted(gone)


class _Part:
    """A layer that reads a group: its weight as a matrix, and G. Both are changed in place."""

    def __init__(self, reader: Reader, inverse: Tensor):
        self.layer, self.inverse = reader.layer, inverse
        self.weight = reader.layer.weight.detach().double().flatten(1)
        taps = reader.layer.weight[0, 0].numel()
        self.columns = {
            channel: torch.tensor([place * taps + tap for place in places for tap in range(taps)])
            for channel, places in reader.places.items()
        }
        self.unit = (self.weight * torch.linalg.solve(inverse, self.weight.T).T).sum().clamp(min=1e-30)

    def losses(self, channels: Sequence[int]) -> Tensor:
        """(n,) of taking out each of n channels."""
        columns = torch.stack([self.columns[channel] for channel in channels])  # (n, k)
        own = self.inverse[columns[:, :, None], columns[:, None]]  # (n, k, k)
        weight = self.weight[:, columns].permute(1, 2, 0)  # (n, k, outputs)
        return (weight * torch.linalg.solve(own, weight)).sum((1, 2)) / self.unit

    def remove(self, channel: int) -> None:
        columns = self.columns[channel]
        rows = torch.linalg.solve(self.inverse[columns][:, columns], self.inverse[columns])
        self.weight -= self.weight[:, columns] @ rows
        self.inverse -= self.inverse[:, columns] @ rows
        self.weight[:, columns] = 0
        self.inverse[columns], self.inverse[:, columns] = 0, 0
        self.inverse[columns, columns] = 1  # of what is gone: so that G can still be solved for

    def write(self) -> None:
        with torch.no_grad():
            self.layer.weight.copy_(self.weight.view_as(self.layer.weight))


@torch.no_grad()
def _moments(model: nn.Module, layers: Sequence[Layer], passes: Callable[[], object]) -> dict[Layer, Tensor]:
    """X X^T of each layer, in float64."""
    found: dict[Layer, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def look(layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        seen = columns_of(layer, inputs[0], PLACES * layer.weight[0].numel(), generator).double()
        found[layer] = found.get(layer, 0) + seen @ seen.T

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with evaluating(model):
            passes()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def columns_of(layer: Layer, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(inputs times taps, count): what a layer multiplies its weight, as a matrix, with, at places drawn at random."""
    if isinstance(layer, nn.Linear):
        rows = x.reshape(-1, x.shape[-1])
        return rows[torch.randint(len(rows), (count,), generator=generator)].T
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    at, index = [], torch.randint(len(x), (count,), generator=generator)[:, None, None]
    for length, size, stride, apart in zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True):
        places = (length - apart * (size - 1) - 1) // stride + 1
        first = torch.randint(places, (count, 1), generator=generator) * stride
        at.append(first + apart * torch.arange(size))
    seen = x.permute(0, 2, 3, 1)[index, at[0][:, :, None], at[1][:, None]]  # (count, kh, kw, inputs)
    return seen.permute(3, 1, 2, 0).flatten(0, 2)
