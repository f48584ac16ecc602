"""The room's networks: an encoder with a decoder, each by its published name."""

from __future__ import annotations

from typing import Any

from lorgnette.systems.superres.decoders import LIIF, LMLIIF, LMLTE, LTE, ContinuousImage, LMCiaoSR
from lorgnette.systems.superres.decoders.continuous import (
    TRAINED_SCALE as TRAINED_SCALE,
    from_network as from_network,
    render_cell as render_cell,
    to_network as to_network,
)
from lorgnette.systems.superres.decoders.mlp import LMMLP as LMMLP, MLP as MLP
from lorgnette.systems.superres.decoders.windows import NUDGE as NUDGE
from lorgnette.systems.superres.encoders import known_encoder, make_encoder
from lorgnette.systems.superres.names import method_name

NETWORKS: dict[str, type[ContinuousImage]] = {
    "lm-lte": LMLTE,
    "lm-liif": LMLIIF,
    "lm-ciaosr": LMCiaoSR,
    "lte": LTE,
    "liif": LIIF,
}
# Where the published settings of a method are others with one encoder.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {("lm-liif", "swinir"): {"imnet_depth": 8}}


def make_network(method: str, encoder: str, **settings: Any) -> ContinuousImage:
    """An untrained network.

    Args:
        method: a name in `lorgnette.systems.superres.names.METHODS`, in any spelling.
        encoder: a name in `lorgnette.systems.superres.encoders.ENCODERS`.
        settings: of the decoder's constructor, instead of the published ones.

    Raises:
        ValueError: a name is not known, in one line.
    """
    method, encoder = method_name(method), known_encoder(encoder)
    return NETWORKS[method](make_encoder(encoder), **(SETTINGS.get((method, encoder), {}) | settings))
