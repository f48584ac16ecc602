"""Parts of a network that are adapters by themselves: they stand beside no weight that they could be folded into."""

from __future__ import annotations

from torch import nn


class AdapterPart(nn.Module):
    """A module that a network was built with so that it can be adapted, such as a low-rank map behind a nonlinearity.

    It is counted, trained, kept and loaded with the adapters of layers. Merging leaves it where it is. With the
    parameters of its start the network computes what it would compute without it.

    Attributes:
        lora_enabled: False while `lorgnette.lora.disabled` holds: then `forward` gives back its input.
    """

    lora_enabled: bool = True

    def reset(self) -> None:
        """Take the parameters back to where they started: without effect."""
        raise NotImplementedError


def parts_of(model: nn.Module) -> dict[str, AdapterPart]:
    """The parts of a model that are adapters by themselves, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterPart)}
