"""Running statistics of a frozen base rest: in training too its norms apply what they hold, and do not move it.

The base under an adapter is then the same before and after training, in anybody's loop. A norm that is trained itself
(`modules_to_save`, or because one of its parameters asks for gradients) behaves as ever.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from lorgnette.lora.layers.base import is_adapted
from lorgnette.lora.layers.in_place import InPlace, specialise, turn_back, turn_into
from lorgnette.lora.state import marked_tensors

_OWNER = "_lora_owner"


class AtRest(InPlace):
    """A module with statistics, which is in evaluation mode as long as it is not trained itself."""

    _title = "Frozen"

    @property
    def training(self) -> bool:  # type: ignore[override]
        """Whether the model is in training mode, and this part of it is trained."""
        return vars(self)["training"] and _learns(self)

    @training.setter
    def training(self, mode: bool) -> None:  # type: ignore[override]
        vars(self)["training"] = mode

    def reset_running_stats(self) -> None:
        """As the base does; at rest nothing, as `torch.optim.swa_utils.update_bn` would leave them at 0 and 1."""
        if _learns(self) or isinstance(self, LazyModuleMixin):  # which is being made
            super().reset_running_stats()  # type: ignore[misc]


def update_rest(model: nn.Module) -> None:
    """Put the statistics of a model to rest if it has adapters, and wake them if it has none any more."""
    adapted = is_adapted(model)
    for module in list(model.modules()):
        if isinstance(module, AtRest) and not adapted:
            vars(module).pop(_OWNER, None)
            turn_back(module)
        elif adapted and not isinstance(module, InPlace) and _has_statistics(module):
            turn_into(module, specialise(AtRest, type(module)))
        if adapted and isinstance(module, ParametrizationList):
            for part in module.children():
                if isinstance(part, _SpectralNorm):
                    vars(part)[_OWNER] = (module,)  # whose weight it divides; in a tuple, as it is no child


def _has_statistics(module: nn.Module) -> bool:
    if isinstance(module, _NormBase):
        return module.track_running_stats
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


def _learns(module: nn.Module) -> bool:
    owner: Any = vars(module).get(_OWNER, (module,))[0]
    parameters = [parameter for parameter in owner._parameters.values() if parameter is not None]
    return any(parameter.requires_grad for parameter in parameters) if parameters else bool(marked_tensors(module))
