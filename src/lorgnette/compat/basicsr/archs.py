"""`basicsr.archs`: a network from the options of an option file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lorgnette.systems.restore import MambaIR


def build_network(opt: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights.

    Args:
        opt: `{"type": "MambaIR", ...}`: the section `network_g` of an option file. It is left as it is.

    Raises:
        ValueError: another type, or a setting that the network does not have.
    """
    settings = dict(opt)
    kind = settings.pop("type", None)
    if kind != "MambaIR":
        raise ValueError(f"type: {kind!r} is not built here; 'MambaIR' is")
    return MambaIR(**settings)
