"""Messages between server and clients: tensors by name in a safetensors file, with a few plain facts beside them.

What arrives is data of a stranger: the header is read first, and its size, every name, type, shape and place must be
the expected ones before a tensor is made. Nothing is unpickled, no name becomes a path.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import AdapterState, Trained
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.settings import Precision
from lorgnette.federate.wire.quantise import dequantise, quantise, scale_count

FORMAT_VERSION = 1
SCALES = "scales"
_TYPES = {"fp32": ("F32", torch.float32), "fp16": ("F16", torch.float16), "bf16": ("BF16", torch.bfloat16)}
_TYPES["int8"] = ("I8", torch.int8)
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I64": 8}
_MOST_FACTS = 64 * 1024  # bytes of JSON beside the tensors

Role = Literal["A", "B", "tensor", "count"]


class Refused(ValueError):
    """A message that is not used; one line says why."""


class Spec(NamedTuple):
    """One tensor that travels."""

    shape: tuple[int, ...]
    role: Role
    """First factor (*stack, r, n), second factor (*stack, m, r), unfrozen tensor, or a counter of whole numbers."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def axis(self) -> int | None:
        """What shares a scale in int8: a row of A, a column of B, a row of another matrix, or all."""
        if self.role in ("A", "B"):
            return -1 if self.role == "A" else -2
        return -1 if len(self.shape) == 2 else None


class Message(NamedTuple):
    """What was sent."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    """float32 (counters: int64), by name."""


@dataclass(frozen=True)
class Schema:
    """The names and shapes of a message's tensors."""

    specs: Mapping[str, Spec]

    @classmethod
    def of(cls, state: AdapterState, travels: Trained = "AB", folded: Mapping[str, Product] | None = None) -> Schema:
        """Of a message that carries these factors of a state, its tensors, and what is folded."""
        specs: dict[str, Spec] = {}
        for name, product in state.factors.items():
            for factor in travels:
                specs[f"{name}.lora_{factor}"] = Spec(tuple(getattr(product, factor).shape), factor)  # type: ignore[arg-type]
        for name, product in (folded or {}).items():
            specs[f"{name}.folded_A"] = Spec(tuple(product.A.shape), "A")
            specs[f"{name}.folded_B"] = Spec(tuple(product.B.shape), "B")
        for name, tensor in state.tensors.items():
            specs[name] = Spec(tuple(tensor.shape), "tensor" if tensor.is_floating_point() else "count")
        return cls(dict(sorted(specs.items())))  # the scales of int8 have no names: both sides need one order

    @property
    def digest(self) -> str:
        """A hash of all names and shapes."""
        lines = [f"{name} {spec.role} {'x'.join(map(str, spec.shape))}" for name, spec in sorted(self.specs.items())]
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def tensor_bytes(self, precision: Precision) -> int:
        """Bytes of the tensors alone."""
        return sum(_BYTES[kind] * math.prod(shape) for kind, shape in self._stored(precision).values())

    def max_bytes(self, precision: Precision) -> int:
        """The largest size of an honest message of this schema: a transport need not read more."""
        return 8 + self.tensor_bytes(precision) + self._max_header()

    def _max_header(self) -> int:
        return _MOST_FACTS + sum(160 + 6 * len(name) for name in self.specs)

    def _stored(self, precision: Precision) -> dict[str, tuple[str, tuple[int, ...]]]:
        """safetensors' type and the shape of everything in the file."""
        kind = _TYPES[precision][0]
        stored = {name: ("I64" if s.role == "count" else kind, s.shape) for name, s in self.specs.items()}
        if precision == "int8":
            scaled = (spec for spec in self.specs.values() if spec.role != "count")
            stored[SCALES] = ("F32", (sum(scale_count(spec.shape, spec.axis) for spec in scaled),))
        return stored

    def _check(self, data: bytes, precision: Precision) -> dict[str, Any]:
        """The facts of a message whose every name, type, shape and place is right."""
        header = _header(data, self._max_header())
        texts = header.pop("__metadata__", {})
        stored = self._stored(precision)
        for name in header:
            if name not in stored:
                raise Refused(f"it carries {_shown(name)}, which is not a tensor of this federation")
        if missing := [name for name in stored if name not in header]:
            raise Refused(f"it lacks {len(missing)} of {len(stored)} tensors, such as {missing[0]!r}")
        places = []
        for name, (kind, shape) in stored.items():
            entry = header[name]
            if not isinstance(entry, dict) or entry.get("dtype") != kind:
                raise Refused(f"{name!r} is not of type {kind}, as {precision} asks")
            if entry.get("shape") != list(shape):
                raise Refused(f"{name!r} has shape {_shown(entry.get('shape'))}, not {list(shape)}")
            place = entry.get("data_offsets")
            if not isinstance(place, list) or [type(end) for end in place] != [int, int]:
                raise Refused(f"{name!r} has no place in the file")
            if place[1] - place[0] != _BYTES[kind] * math.prod(shape):
                raise Refused(f"{name!r} has {place[1] - place[0]} bytes, not {_BYTES[kind] * math.prod(shape)}")
            places.append(tuple(place))
        end = 0
        for start, stop in sorted(places):
            if start != end:
                raise Refused("its tensors overlap or have gaps between them")
            end = stop
        size = int.from_bytes(data[:8], "little")
        if len(data) != 8 + size + end:
            raise Refused(f"it has {len(data)} bytes, not the {8 + size + end} that its header tells of")
        return _facts(texts)


def encode(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], schema: Schema, precision: Precision) -> bytes:
    """A message as bytes.

    Args:
        facts: anything JSON can hold; `format_version` is added.
        tensors: exactly those of the schema.
        schema: what they are.
        precision: of the floats.
    """
    assert tensors.keys() == schema.specs.keys(), "a message holds what its schema says"
    kept: dict[str, Tensor] = {}
    scales = []
    for name, spec in schema.specs.items():
        value = tensors[name].detach().cpu()
        assert tuple(value.shape) == spec.shape, name
        if spec.role == "count":
            kept[name] = value.to(torch.int64)
        elif precision == "int8":
            kept[name], scale = quantise(value, spec.axis)
            scales.append(scale)
        else:
            kept[name] = value.to(_TYPES[precision][1])
    if precision == "int8":
        kept[SCALES] = torch.cat(scales) if scales else torch.zeros(0)
    text = json.dumps({"format_version": FORMAT_VERSION, **facts}, separators=(",", ":"), allow_nan=False)
    contiguous = {name: tensor.contiguous().clone() for name, tensor in kept.items()}
    return safetensors.torch.save(contiguous, metadata={"lorgnette": text})


def decode(data: bytes, schema: Schema, precision: Precision) -> Message:
    """The facts and tensors of a message.

    Args:
        data: all of it.
        schema: what it must hold.
        precision: what it must be in.

    Raises:
        Refused: it is anything else, or holds NaN or infinity; one line says what.
    """
    facts = schema._check(data, precision)
    try:
        loaded = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Refused(f"it is not an intact safetensors file ({str(error).splitlines()[0][:80]})") from None
    scales = loaded.get(SCALES, torch.zeros(0)) if precision == "int8" else torch.zeros(0)
    tensors: dict[str, Tensor] = {}
    used = 0
    for name, spec in schema.specs.items():
        value = loaded[name]
        if spec.role != "count" and precision == "int8":
            count = scale_count(spec.shape, spec.axis)
            value = dequantise(value, scales[used : used + count], spec.axis)
            used += count
        tensors[name] = value if spec.role == "count" else value.float()
        if not torch.isfinite(tensors[name]).all():
            kind = "NaN" if torch.isnan(tensors[name]).any() else "infinity"
            raise Refused(f"{name!r} holds {kind}")
    return Message(facts, tensors)


def peek(data: bytes, most: int = _MOST_FACTS + 2**20) -> dict[str, Any]:
    """The facts alone, for a reader that does not know the schema yet. Nothing else is read.

    Raises:
        Refused: there are none.
    """
    return _facts(_header(data, most).get("__metadata__", {}))


def _facts(texts: Any) -> dict[str, Any]:
    """The facts in a header's `__metadata__`, which is not trusted."""
    try:
        facts = json.loads(texts["lorgnette"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise Refused("it has no facts beside its tensors") from None
    if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
        raise Refused(f"its format_version is not {FORMAT_VERSION}")
    return facts


def flatten(state: AdapterState, travels: Trained, folded: Mapping[str, Product] | None = None) -> dict[str, Tensor]:
    """A state's tensors by the names they travel under, in the order of `Schema.of`."""
    found: dict[str, Tensor] = {}
    for name, product in state.factors.items():
        found |= {f"{name}.lora_{factor}": getattr(product, factor) for factor in travels}
    for name, product in (folded or {}).items():
        found |= {f"{name}.folded_A": product.A, f"{name}.folded_B": product.B}
    return dict(sorted({**found, **state.tensors}.items()))


def unflatten(tensors: Mapping[str, Tensor], like: AdapterState) -> AdapterState:
    """The state of a message; what did not travel is that of `like`."""
    factors = {
        name: Product(tensors.get(f"{name}.lora_A", product.A), tensors.get(f"{name}.lora_B", product.B))
        for name, product in like.factors.items()
    }
    return replace(like, factors=factors, tensors={n: tensors.get(n, value) for n, value in like.tensors.items()})


def floats(schema: Schema) -> Iterator[str]:
    """Names of the tensors that are rounded on the way."""
    return (name for name, spec in schema.specs.items() if spec.role != "count")


def _header(data: bytes, most: int) -> dict[str, Any]:
    if len(data) < 8:
        raise Refused(f"it has {len(data)} bytes, too few for a message")
    size = int.from_bytes(data[:8], "little")
    if size > most:
        raise Refused(f"its header claims {size} bytes; at most {most} are read")
    if size > len(data) - 8:
        raise Refused(f"its header claims {size} bytes and {len(data) - 8} follow")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        raise Refused("its header is not JSON") from None
    if not isinstance(header, dict):
        raise Refused("its header is not a table")
    return header


def _shown(value: Any) -> str:
    """An untrusted value, short and in one line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
