"""What an update loses by rounding is kept by its sender and added to the next one (error feedback).

Seide et al. 2014; Karimireddy et al., arXiv 1901.09847. Where the server gives the factors new axes each round, the
error cannot be kept element by element: it is kept as a product, and what of it lies in the rows of the next
round's A goes along.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.aggregation.factors import Product, total, truncated
from lorgnette.federate.aggregation.schemes import SCHEMES
from lorgnette.federate.wire.codec import Schema, decode, flatten, floats
from lorgnette.federate.wire.messages import Work, encode_update

_A, _B, _ELEMENT = "error_A:", "error_B:", "error:"


def rounded_update(
    work: Work,
    base: str,
    trained: AdapterState,
    errors: Mapping[str, Tensor],
    samples: int,
    loss: float,
    metrics: Mapping[str, float],
    skipped: int = 0,
) -> tuple[bytes, dict[str, Tensor]]:
    """An update in the precision that the work asks for.

    Args:
        work: what was sent.
        base: digest of the base.
        trained: what became of it.
        errors: what earlier updates of this client have lost.
        samples: of this client.
        loss: mean of its training.
        metrics: its scores.
        skipped: steps that changed nothing.

    Returns:
        The message, and what is lost now.
    """
    now = flatten(trained, work.trained)
    if work.precision == "fp32":
        return encode_update(work, base, now, samples, loss, metrics, skipped), {}
    errors = _that_fit(errors, trained)
    start = flatten(work.state, work.trained)
    schema = Schema.of(work.state, work.trained)
    moving = SCHEMES[work.scheme].moves_axes
    wanted = dict(now)
    if moving:
        for name, product in trained.factors.items():
            if f"{_A}{name}" in errors:
                error_A, error_B = errors[f"{_A}{name}"].double(), errors[f"{_B}{name}"].double()
                along = error_A @ torch.linalg.pinv(product.A.double())
                wanted[f"{name}.lora_B"] = product.B + (error_B @ along).to(product.B)
    changes = {}
    for name, value in wanted.items():
        changes[name] = value - start[name] if value.is_floating_point() else value
        if f"{_ELEMENT}{name}" in errors:
            changes[name] = changes[name] + errors[f"{_ELEMENT}{name}"]
    data = encode_update(work, base, changes, samples, loss, metrics, skipped)
    arrived = decode(data, schema, work.precision).tensors
    lost: dict[str, Tensor] = {}
    for name in floats(schema):
        if not (moving and schema.specs[name].role in ("A", "B")):
            lost[f"{_ELEMENT}{name}"] = changes[name] - arrived[name]
    if moving:
        for name, product in trained.factors.items():
            there = Product(
                start[f"{name}.lora_A"] + arrived[f"{name}.lora_A"], start[f"{name}.lora_B"] + arrived[f"{name}.lora_B"]
            )
            parts, signs = [product, there], [1.0, -1.0]
            if f"{_A}{name}" in errors:
                parts, signs = [*parts, Product(errors[f"{_A}{name}"], errors[f"{_B}{name}"])], [*signs, 1.0]
            kept = truncated(total(parts, signs), 2 * product.rank)
            lost |= {f"{_A}{name}": kept.A.float().contiguous(), f"{_B}{name}": kept.B.float().contiguous()}
    # A factor that another round trains keeps its error until then.
    return data, {**{name: value for name, value in errors.items() if name not in lost}, **lost}


def _that_fit(errors: Mapping[str, Tensor], state: AdapterState) -> dict[str, Tensor]:
    """What was lost, without that of factors which had another rank then."""
    shapes = {f"{_ELEMENT}{name}": value.shape for name, value in flatten(state, "AB").items()}
    return {name: value for name, value in errors.items() if value.shape == shapes.get(name, value.shape)}
