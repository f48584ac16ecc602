"""Updates are clipped and noised before they leave a client: the Gaussian mechanism, client by client.

The noise is added where the data is, so that it holds whatever the server does, and with every scheme; what it buys is
in `lorgnette.federate.wire.accounting`. In a simulation the noise comes from
the seed, so that a run can be repeated; for privacy the seed must be kept secret.
"""

from __future__ import annotations

import torch

from lorgnette.federate.aggregation.adapter_state import AdapterState, Trained
from lorgnette.federate.wire.codec import flatten, unflatten
from lorgnette.federate.wire.messages import Local


def privatised(state: AdapterState, start: AdapterState, trained: Trained, local: Local, seed: int) -> AdapterState:
    """The update with its change from `start` scaled down to an L2 norm of `local.clip`, and noise added.

    Args:
        state: what was trained.
        start: what was sent.
        trained: the factors that travel.
        local: `clip` (0: nothing is done) and `noise`, a deviation in multiples of `clip`.
        seed: of the noise.
    """
    if not local.clip:
        return state
    now, before = flatten(state, trained), flatten(start, trained)
    floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
    changes = {name: (now[name] - before[name]).double() for name in floating}
    norm = float(torch.stack([change.square().sum() for change in changes.values()]).sum().sqrt())
    factor = min(1.0, local.clip / norm) if norm else 1.0
    generator = torch.Generator().manual_seed(seed)
    sent = dict(now)
    for name, change in changes.items():
        noise = torch.randn(change.shape, generator=generator, dtype=torch.float64) if local.noise else 0.0
        sent[name] = (before[name].double() + factor * change + local.noise * local.clip * noise).to(now[name])
    return unflatten(sent, state)
