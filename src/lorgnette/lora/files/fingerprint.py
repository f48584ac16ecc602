"""Which base model an adapter belongs to: a fingerprint of the base's tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorgnette.lora.layers.offloaded import fetched
from lorgnette.lora.record import DIGEST_BYTES, hash_values
from lorgnette.lora.state import base_tensors
from lorgnette.lora.wrappers import on_unwrapped


@dataclass(frozen=True)
class Fingerprint:
    """Of a base model. Equal before and after injection and training of adapters."""

    structure: str
    """Hash of the names and shapes of its tensors."""
    content: str
    """Hash of names, shapes and values."""
    tensors: Mapping[str, str]
    """Name -> shape and hash of the values, such as '64x3x3x3 9f86d081884c7d65'."""

    def difference(self, other: Fingerprint, skip: Collection[str] = ()) -> str:
        """One phrase on how `other` differs from this base, or an empty string.

        Args:
            other: fingerprint of the model at hand.
            skip: names of tensors whose values do not count, as they come with the adapter.
        """
        if self.content == other.content:
            return ""
        here, there = ({n: t for n, t in f.tensors.items() if n not in skip} for f in (other, self))
        if absent := [name for name in there if name not in here]:
            return f"it lacks {len(absent)} of {len(there)} tensors, such as {absent[0]!r}"
        if surplus := [name for name in here if name not in there]:
            return f"it has {len(surplus)} tensors more, such as {surplus[0]!r}"
        for name, value in there.items():
            if value.split()[0] != here[name].split()[0]:
                return f"{name!r} is {here[name].split()[0]} instead of {value.split()[0]}"
        changed = [name for name, value in there.items() if value != here[name]]
        return f"{len(changed)} of {len(there)} tensors have other values, such as {changed[0]!r}" if changed else ""


@on_unwrapped
def fingerprint(model: nn.Module, dtypes: Mapping[str, str] | None = None) -> Fingerprint:
    """Hash the base tensors of a model: parameters and saved buffers, without adapters.

    Take it before the model is cast to another dtype: values are hashed as they are, by their bytes.
    A gigabyte takes about a second, the first time: what has not changed since is not hashed again.

    Args:
        model: with adapters or without.
        dtypes: name -> dtype of tensors that are to be hashed as if they had been cast to it.
    """
    hashes: dict[tuple[int, torch.Size], str] = {}
    tensors: dict[str, str] = {}
    structure, content = _hasher(), _hasher()
    for name, tensor in sorted(base_tensors(model).items()):
        key = (id(tensor), tensor.shape)
        if tensor.is_meta:
            owner, _, own = name.rpartition(".")
            value = fetched(model.get_submodule(owner), own)
            if value is None:
                raise ValueError(f"fingerprint: {name!r} has no values (it is on the meta device)")
            tensor = value
        if key not in hashes:
            cast = dtypes.get(name) if dtypes else None
            hashes[key] = hash_values(tensor if cast is None else tensor.to(getattr(torch, cast)))
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        tensors[name] = f"{shape} {hashes[key]}"
        structure.update(f"{name} {shape}\n".encode())
        content.update(f"{name} {tensors[name]}\n".encode())
    return Fingerprint(structure.hexdigest(), content.hexdigest(), tensors)


def _hasher() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def base_dtypes(model: nn.Module) -> dict[str, str]:
    """The dtype of each base tensor of floating-point numbers, by name."""
    tensors = base_tensors(model).items()
    return {name: str(t.dtype).removeprefix("torch.") for name, t in tensors if t.is_floating_point()}


def difference_but_for_dtype(
    made_for: Fingerprint, model: nn.Module, skip: Collection[str], saved_as: Mapping[str, str]
) -> str:
    """How a model differs from a base, as by `Fingerprint.difference`; whether one was cast is found out.

    Args:
        made_for: the base.
        model: with adapters or without.
        skip: names of tensors whose values do not count.
        saved_as: name -> dtype of the base's tensors, where it was not float32.
    """
    difference, here = made_for.difference(fingerprint(model), skip), base_dtypes(model)
    other = {name: then for name, now in here.items() if (then := saved_as.get(name, "float32")) != now}
    if not difference or not other:
        return difference
    wider = all(_promoted(here[name], then) == here[name] for name, then in other.items())
    if wider and not made_for.difference(fingerprint(model, other), skip):
        return ""  # the same base, which was rounded when the adapter was made
    name, then = next(iter(other.items()))
    return (
        f"{difference}; the dtype differs too, {name!r} was {then} and is {here[name]} here: load before casting, give"
        " base= a fingerprint taken before, or accept it by check_base=False"
    )


def _promoted(one: str, other: str) -> str:
    """The dtype that holds the values of both."""
    return str(torch.promote_types(getattr(torch, one), getattr(torch, other))).removeprefix("torch.")
