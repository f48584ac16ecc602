"""The two messages of a round: work, which a server sends, and the update that comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import Adapter, AdapterState, Trained, factors_digest
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.aggregation.schemes import SCHEMES
from lorgnette.federate.settings import Precision
from lorgnette.federate.wire.codec import Message, Refused, Schema, decode, encode, flatten, peek, unflatten

_LARGEST_NUMBER = 1e100
_MOST_METRICS = 64


@dataclass(frozen=True)
class Local:
    """How a client trains in a round; the server decides."""

    steps: int = 10
    lr_factor: float = 1.0
    """The learning rate as a share of the recipe's."""
    proximal: float = 0.0
    clip: float = 0.0
    noise: float = 0.0
    seed: int = 0
    metrics: bool = False
    """Whether to score the trained adapter."""


class Work(NamedTuple):
    """What a server sends to a client."""

    round: int
    scheme: str
    trained: Trained
    precision: Precision
    """Of the update."""
    rank: int | None
    """The largest rank of a layer for this client; None for that of the recipe."""
    local: Local
    state: AdapterState
    folded: Mapping[str, Product]


class Received(NamedTuple):
    """What a client sends back."""

    state: AdapterState
    samples: int
    loss: float
    metrics: dict[str, float]
    skipped: int = 0
    """Steps that changed nothing, because their gradients were not finite."""


def down_precision(up: Precision) -> Precision:
    """The precision of work: that of the updates, but fp16 for int8, which would need each client's error kept."""
    return "fp16" if up == "int8" else up


def encode_work(
    round: int,
    scheme: str,
    precision: Precision,
    rank: int | None,
    local: Local,
    base: str,
    state: AdapterState,
    folded: Mapping[str, Product],
) -> bytes:
    """The message for clients of one rank; `state` is what they get, without what stays at home."""
    chosen = SCHEMES[scheme]
    schema = Schema.of(state, chosen.sends, folded)
    facts = {
        "kind": "work",
        "round": round,
        "scheme": scheme,
        "trained": chosen.trains(round),
        "precision": precision,
        "rank": rank,
        "local": asdict(local),
        "base": base,
        "schema": schema.digest,
        "folded": {name: product.rank for name, product in folded.items()},
        "kept": _kept(state, chosen.sends),
    }
    return encode(facts, flatten(state, chosen.sends, folded), schema, down_precision(precision))


def decode_work(data: bytes, own: AdapterState, base: str) -> Work:
    """The work that a client was sent.

    Args:
        data: the message.
        own: the client's adapter as it was made, without what stays at home.
        base: digest of the client's base.

    Raises:
        Refused: it is for another base or adapter, or is damaged.
    """
    facts = peek(data, 16 * 2**20)
    problem = Refused("it is not the work of a round")
    try:
        scheme, trained = SCHEMES[facts["scheme"]], facts["trained"]
        local, precision, rank = Local(**facts["local"]), facts["precision"], facts["rank"]
        ranks = {str(name): int(folded) for name, folded in facts["folded"].items()}
        round = int(facts["round"])
        down = down_precision(precision)
        sizes = (local.lr_factor, local.proximal, local.clip, local.noise)
        right = (
            facts["kind"] == "work"
            and round >= 1
            and trained == scheme.trains(round)
            and precision in ("fp32", "fp16", "bf16", "int8")
            and (rank is None or (type(rank) is int and rank >= 1))
            and all(type(n) is int and n >= 0 for n in (local.steps, local.seed))
            and all(type(n) in (int, float) and 0 <= n < math.inf for n in sizes)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise problem from None
    if not right:
        raise problem
    if facts["base"] != base:
        raise Refused("it is for another base model, or other settings of it, than this client has")
    like = own.at(rank)
    folded: dict[str, Product] = {}
    for name, inner in ranks.items():
        if name not in like.factors or not 0 < inner <= like.factors[name].full_rank:
            raise Refused("what it folds into the base does not fit this model")
        A, B = like.factors[name]
        folded[name] = Product(A.new_zeros(*A.shape[:-2], inner, A.shape[-1]), B.new_zeros(*B.shape[:-1], inner))
    schema = Schema.of(like, scheme.sends, folded)
    if facts["schema"] != schema.digest:
        raise Refused("it is for an adapter of other layers, ranks or sizes than this client has")
    if facts["kept"] != _kept(like, scheme.sends):
        raise Refused("the factors that do not travel are not the same here: the recipes differ in lora or train.seed")
    tensors = decode(data, schema, down).tensors
    parts = {name: Product(tensors[f"{name}.folded_A"], tensors[f"{name}.folded_B"]) for name in folded}
    return Work(round, facts["scheme"], trained, precision, rank, local, unflatten(tensors, like), parts)


def encode_update(
    work: Work,
    base: str,
    tensors: Mapping[str, Tensor],
    samples: int,
    loss: float,
    metrics: Mapping[str, float],
    skipped: int = 0,
) -> bytes:
    """The answer to some work: `tensors` are the values themselves in fp32, else what they changed by."""
    schema = Schema.of(work.state, work.trained)
    facts = {
        "kind": "update",
        "round": work.round,
        "base": base,
        "schema": schema.digest,
        "samples": samples,
        "loss": loss if math.isfinite(loss) else None,
        "metrics": {name: float(value) for name, value in metrics.items() if math.isfinite(value)},
    } | ({"skipped": skipped} if skipped else {})
    return encode(facts, tensors, schema, work.precision)


def decode_update(data: bytes, work: Work, base: str) -> Received:
    """The update that answers `work`.

    Raises:
        Refused: anything else; one line says what is wrong.
    """
    schema = Schema.of(work.state, work.trained)
    facts = peek(data, schema.max_bytes("fp32"))
    if facts.get("kind") != "update" or facts.get("round") != work.round:
        raise Refused(f"it is not an update of round {work.round}")
    if facts.get("base") != base:
        raise Refused("it was trained on another base model")
    if facts.get("schema") != schema.digest:
        raise Refused("its schema differs: other layers, ranks or sizes")
    samples, loss, metrics = facts.get("samples"), facts.get("loss"), facts.get("metrics")
    if type(samples) is not int or not 1 <= samples <= 10**12:
        raise Refused(f"it claims {ascii(samples)[:40]} samples")
    skipped = facts.get("skipped", 0)
    if type(skipped) is not int or not 0 <= skipped <= 10**12:
        raise Refused("it does not say how many steps it skipped")
    if not isinstance(metrics, dict) or len(metrics) > _MOST_METRICS:
        raise Refused("its metrics are not a table")
    for name, value in metrics.items():
        if len(name) > 64 or not name.isprintable() or math.isnan(_number(value)):
            raise Refused("its metrics are not a table of numbers")
    message: Message = decode(data, schema, work.precision)
    tensors = message.tensors
    if work.precision != "fp32":
        start = flatten(work.state, work.trained)
        tensors = {name: value + start[name] if value.is_floating_point() else value for name, value in tensors.items()}
    scores = {name: float(value) for name, value in metrics.items()}
    return Received(unflatten(tensors, work.state), samples, _number(loss), scores, skipped)


def facts_of(adapter: Adapter, made: AdapterState, personal: Sequence[str]) -> dict[str, str]:
    """What must be equal at the server and all sites: digests of the base, and of the names and shapes that travel."""
    return {"base": adapter.base, "schema": Schema.of(made.without(made.matching(personal))).digest}


def _number(value: Any) -> float:
    """An untrusted number; NaN if it is not one, or so large that a mean over clients could overflow."""
    return float(value) if type(value) in (int, float) and abs(value) <= _LARGEST_NUMBER else math.nan


def change_norm(state: AdapterState, start: AdapterState) -> float:
    """L2 norm of all that an update changes."""
    own, old = flatten(state, "AB"), flatten(start, "AB")
    squares = [(own[n] - old[n]).double().square().sum() for n, t in old.items() if t.is_floating_point()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _kept(state: AdapterState, sends: Trained) -> str:
    """A hash of the factors that both sides must have, because they do not travel."""
    rest = {f"{name}.lora_A": product.A for name, product in state.factors.items() if "A" not in sends}
    return factors_digest(rest) if rest else ""
