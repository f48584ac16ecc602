"""Weights by name which also behave as a list of arrays, as older federation code passes them around."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class NamedArray(np.ndarray):
    """An array that knows whose it is, also after arithmetic: `(x + y) / 2` has the name of x."""

    name: str | None = None

    def __array_finalize__(self, obj: Any) -> None:
        self.name = getattr(obj, "name", None)


class Parameters(list[NDArray[Any]]):
    """Arrays in a fixed order: `parameters[0]` and loops see a list, `parameters["head.bias"]` a table.

    Args:
        arrays: name -> array.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]):
        super().__init__(_named(name, array) for name, array in arrays.items())
        self.names = tuple(arrays)

    def keys(self) -> KeysView[str]:
        return self.named().keys()

    def items(self) -> ItemsView[str, NDArray[Any]]:
        return self.named().items()

    def named(self) -> dict[str, NDArray[Any]]:
        """A plain table."""
        return dict(zip(self.names, self, strict=True))

    def __getitem__(self, key: Any) -> Any:
        return self.named()[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self.names if isinstance(key, str) else super().__contains__(key)

    @property
    def schema(self) -> str:
        """A hash of names, shapes and types: two models that may exchange weights have the same."""
        described = [f"{name} {array.shape} {array.dtype}" for name, array in self.items()]
        return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def _named(name: str, array: NDArray[Any]) -> NDArray[Any]:
    named = array.view(NamedArray)
    named.name = name
    return named


def from_tensors(tensors: Mapping[str, Tensor]) -> Parameters:
    """Copies, sorted by name."""
    return Parameters({name: tensors[name].detach().cpu().numpy().copy() for name in sorted(tensors)})


def copy_in(parameters: Parameters | Mapping[str, Any] | Iterable[NDArray[Any]], tensors: Mapping[str, Tensor]) -> None:
    """Copy arrays into tensors. Everything is checked before anything is copied.

    Args:
        parameters: by name; or a plain list in the order of `from_tensors`. Its arrays know their names where they, or
            what they were computed from, came from a model; of others the order is trusted, with a warning.
        tensors: the model's own memory by name.

    Raises:
        ValueError: a missing, unknown, misshapen or non-finite array, one in the place of another, or another schema;
            one line names it.
    """
    names = sorted(tensors)
    if isinstance(parameters, Parameters | Mapping):
        given = {str(name): np.asarray(array) for name, array in parameters.items()}
    else:
        parameters = list(parameters)
        arrays = [np.asarray(array) for array in parameters]
        if len(arrays) != len(names):
            raise ValueError(f"set_parameters: {len(arrays)} arrays were given; the model has {len(names)}")
        given = dict(zip(names, arrays, strict=True))
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"set_parameters: {missing[0]!r} is missing, and {len(missing) - 1} more")
    if unknown := [name for name in given if name not in tensors]:
        raise ValueError(f"set_parameters: the model has no {unknown[0]!r}")
    for name in names:
        if given[name].shape != tuple(tensors[name].shape):
            shape = tuple(tensors[name].shape)
            raise ValueError(f"set_parameters: {name!r} has shape {given[name].shape}; the model's has {shape}")
        if not np.issubdtype(given[name].dtype, np.number) or not np.isfinite(given[name]).all():
            raise ValueError(f"set_parameters: {name!r} holds values that are no finite numbers")
    if isinstance(parameters, list) and not isinstance(parameters, Parameters):
        _check_order(names, parameters)
    if isinstance(parameters, Parameters) and parameters.schema != (own := from_tensors(tensors).schema):
        raise ValueError(f"set_parameters: the schema {parameters.schema} is not the model's, {own}: its types differ")
    with torch.no_grad():
        for name in names:
            tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(given[name])))


def _check_order(names: Sequence[str], arrays: Sequence[Any]) -> None:
    found = [getattr(array, "name", None) for array in arrays]
    for wanted, name in zip(names, found, strict=True):
        if name is not None and name != wanted:
            raise ValueError(f"set_parameters: {name!r} stands in the place of {wanted!r}")
    if None in found:
        warnings.warn("set_parameters: these arrays do not know their names; their order is trusted", stacklevel=4)
