"""Which channels of a network hang together, so that they can only be taken out together: found by Torch-Pruning
(Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023), and tried before it is believed.

A group is tried by taking a third of its channels out: the network must answer as it does when the same channels are
silent, which is to say when all that reads them reads zeros. Where it does not (channels that are outputs, that are
counted or normalised together, or whose meaning depends on their number), the group stays as it is. So no room has to
say what of its networks can be pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorgnette.common.modules import evaluating
from lorgnette.common.text import one_line

TOLERANCE = 1e-4
"""Largest difference that is taken for rounding, as a share of the largest output."""
Layer = nn.Conv2d | nn.Linear
LAYERS = (nn.Conv2d, nn.Linear)
CIRCLES = 16
"""How often channels may come by the same layer."""


@dataclass(frozen=True)
class Reader:
    """A layer whose input some channels are."""

    layer: Layer
    places: dict[int, list[int]]
    """Channel of the group -> which inputs of the layer it is."""


class Group:
    """Channels that can only be taken out together, from every layer that makes or reads them.

    Attributes:
        name: of the first layer that makes them.
        size: how many there are.
        made: names of all layers that make them.
        readers: the layers that read them.
    """

    def __init__(self, graph: Any, root: Layer, names: Mapping[nn.Module, str]):
        self._graph, self._root = graph, root
        self.name, self.size = names[root], len(root.weight)
        members = self._members(range(self.size))
        layers = [(dep.target.module, graph.is_out_channel_pruning_fn(dep.handler), of) for dep, of in members]
        self.made = [names[layer] for layer, makes, _ in layers if makes and isinstance(layer, LAYERS)]
        self.readers = [Reader(layer, of) for layer, makes, of in layers if isinstance(layer, LAYERS) and not makes]

    def silence(self, channels: Sequence[int]) -> None:
        """Have all readers read zeros in place of some channels."""
        for reader in self.readers:
            weight = reader.layer.weight.detach().clone()
            weight[:, [place for channel in channels for place in reader.places[channel]]] = 0
            reader.layer.weight = nn.Parameter(weight, reader.layer.weight.requires_grad)

    def remove(self, channels: Sequence[int]) -> None:
        """Take some channels out."""
        for dep, places in self._members(channels):
            dep(sorted(place for of in places.values() for place in of))

    def _members(self, channels: Sequence[int]) -> list[tuple[Any, dict[int, list[int]]]]:
        """Torch-Pruning's dependencies that some channels go through, and which places in them each channel has.

        Raises:
            ValueError: they meet a layer that is not known here; or there is no end to them: channels that are put
                behind each other, and added then, lead Torch-Pruning in circles.
        """
        from torch_pruning._helpers import _HybridIndex
        from torch_pruning.dependency import Dependency, index_mapping

        index_mapping.update_index_mapping(self._graph)
        node, fn = self._graph.module2node[self._root], self._graph.get_pruner_of_module(self._root).prune_out_channels
        ahead = [(Dependency(fn, fn, node, node), [_HybridIndex(channel, channel) for channel in channels])]
        seen: dict[Any, set[tuple[Any, ...]]] = {}
        found: dict[Any, tuple[Any, dict[tuple[int, int], None]]] = {}
        while ahead:
            dep, places = ahead.pop()
            key = dep.target, dep.handler
            before = seen.setdefault(key, set())
            if tuple(places) in before:
                continue
            before.add(tuple(places))
            if len(places) > CIRCLES * len(channels) or len(before) > CIRCLES or not _known(dep.target.module):
                raise ValueError(f"{dep.target.module}: is not followed")
            found.setdefault(key, (dep, {}))[1].update(dict.fromkeys(places))
            for other in dep.target.dependencies:
                if other.is_triggered_by(dep.handler):
                    mapped = places
                    for mapping in filter(None, other.index_mapping):
                        mapped = mapping(mapped)
                    if mapped:
                        ahead.append((other, mapped))
        return [(dep, _by_channel(places)) for dep, places in found.values()]


def _known(module: nn.Module) -> bool:
    """Whether a channel goes through it by itself: a layer, a BatchNorm, or an operation as Torch-Pruning has it."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    own = type(module).__module__.startswith("torch_pruning.")
    return own or isinstance(module, nn.Linear | nn.modules.batchnorm._BatchNorm)


def _by_channel(places: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, channel in places:
        found.setdefault(channel, []).append(place)
    return found


def groups_of(model: nn.Module, example: tuple[Any, ...]) -> tuple[list[Group], list[str]]:
    """The groups of a network whose channels can be taken out, and the names of the layers whose outputs stay.

    Args:
        model: in which convolutions and products are the layers that are looked at; it leaves as it came.
        example: arguments of its `forward`.

    Raises:
        ValueError: Torch-Pruning is not installed, or the network does not take the example, in one line.
    """
    try:
        import torch_pruning
    except ImportError:
        raise ValueError("torch-pruning is not installed: pip install 'lorgnette[prune]'") from None
    names = {module: name for name, module in model.named_modules()}
    found, seen = [], set[str]()
    with evaluating(model), _undone(model):
        _shake(model)
        try:
            model(*example)
        except Exception as error:  # of many kinds
            raise ValueError(f"example: {type(model).__name__} does not take it ({one_line(error)})") from None
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
        for module in filter(graph.module2node.__contains__, names):
            if isinstance(module, LAYERS) and names[module] not in seen:
                group = _group(graph, module, names)
                if group is not None and _is_exact(model, example, group):
                    found.append(group)
                    seen.update(group.made)
    left = [name for module, name in names.items() if isinstance(module, LAYERS) and name not in seen]
    return found, left


def _group(graph: Any, root: Any, names: dict[nn.Module, str]) -> Group | None:
    try:
        group = Group(graph, root, names)
    except Exception:  # of many kinds: operations that Torch-Pruning cannot follow
        return None
    return group if group.readers else None


def _is_exact(model: nn.Module, example: tuple[Any, ...], group: Group) -> bool:
    some = range(0, group.size, 3)
    if len(some) == group.size:
        return False
    answers = []
    for change in (group.silence, group.remove):
        with _undone(model), torch.no_grad():
            try:
                change(some)
                answers.append(model(*example))
            except Exception:  # of many kinds: sizes that do not fit, wherever the network meets them
                return False
    silent, removed = answers
    scale = silent.abs().max().clamp(min=1e-12)
    return silent.shape == removed.shape and bool((silent - removed).abs().max() <= TOLERANCE * scale)


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """What is done to layers within this context is undone: other tensors and sizes in place of theirs."""
    before = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    try:
        yield
    finally:
        for module, attributes, parameters, buffers in before:
            vars(module).update(attributes)
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def _shake(model: nn.Module) -> None:
    """Other weights, near those it has: a layer of zeros would hide what lies before it. All of them require gradients,
    which Torch-Pruning follows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                size = weight[0].numel() if weight.ndim else 1
                module._parameters[name] = nn.Parameter(weight.detach() + 0.3 * size**-0.5 * noise)
