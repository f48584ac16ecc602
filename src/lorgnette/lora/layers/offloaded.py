"""Layers whose weights accelerate's hooks keep elsewhere and fetch for each call; their adapters stay in place."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora.layers.in_place import HOOK


class Around:
    """A hook that sees a layer without its adapter, whose tensors it would look for among those that lie elsewhere."""

    def __init__(self, hook: Any, names: Collection[str]) -> None:
        self.hook, self.names = hook, tuple(names)

    def __getattr__(self, name: str) -> Any:
        if name == "hook":  # asked for while it is copied
            raise AttributeError(name)
        return getattr(self.hook, name)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _without(module, self.names):
            return self.hook.pre_forward(module, *args, **kwargs)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        with _without(module, self.names):
            return self.hook.post_forward(module, output)


def shield(layer: nn.Module, names: Collection[str]) -> None:
    """Keep these tensors of a layer from its hook."""
    if (hook := vars(layer).get(HOOK)) is not None:
        vars(layer)[HOOK] = Around(hook, names)


def shielded(layer: nn.Module, hook: Any, names: Collection[str]) -> Around:
    """A hook for a layer that has these tensors, which it is not to see; if it has taken them away, they come back."""
    for one in getattr(hook, "hooks", (hook,)):
        for name in names:
            if (taken := layer._parameters.get(name)) is not None and taken.is_meta and getattr(one, "offload", False):
                value = one.weights_map[name].to(one.execution_device)
                layer._parameters[name] = nn.Parameter(value.detach(), requires_grad=taken.requires_grad)
            getattr(one, "original_devices", {}).pop(name, None)  # what it would put back in the end
    return Around(hook, names)


def unshield(layer: nn.Module) -> None:
    """Give a layer its own hook again."""
    if isinstance(hook := vars(layer).get(HOOK), Around):
        vars(layer)[HOOK] = hook.hook


def lies_elsewhere(layer: nn.Module, weight: Tensor) -> bool:
    """Whether a weight of a layer is fetched for each call."""
    return weight.is_meta and HOOK in vars(layer)


def home(layer: nn.Module, weight: Tensor) -> torch.device:
    """Where a layer computes: on the device of its weight, or on the one that it is fetched to."""
    devices = (getattr(hook, "execution_device", None) for hook in _hooks(layer))
    device = next((device for device in devices if device is not None), None)
    return torch.device(device) if device is not None and weight.is_meta else weight.device


def fetched(layer: nn.Module, name: str) -> Tensor | None:
    """A tensor of a layer that lies elsewhere; None where no hook knows it."""
    for hook in _hooks(layer):
        values = getattr(hook, "weights_map", None)
        if values is not None:
            with contextlib.suppress(KeyError):
                return values[name]
    return None


def _hooks(layer: nn.Module) -> list[Any]:
    hook = vars(layer).get(HOOK)
    hook = hook.hook if isinstance(hook, Around) else hook
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


@contextlib.contextmanager
def _without(module: nn.Module, names: Collection[str]) -> Iterator[None]:
    taken = {name: module._parameters.pop(name) for name in names if name in module._parameters}
    try:
        yield
    finally:
        module._parameters.update(taken)
