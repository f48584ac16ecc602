"""Data dealt out to clients: by label (Dirichlet), evenly, or in unequal sizes. numpy alone; the manifest is a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorgnette.common.files import read_json, write_json

FORMAT_VERSION = 1
Indices = NDArray[np.int64]


def dirichlet(
    labels: ArrayLike, clients: int, concentration: float = 0.3, min_size: int = 1, seed: int = 0
) -> list[Indices]:
    """Each label's samples go to the clients in shares from a Dirichlet distribution (Hsu et al., arXiv 1909.06335).

    Args:
        labels: (N,), one label a sample.
        clients: how many parts.
        concentration: small for parts unlike each other.
        min_size: who has less gets samples of who has most.
        seed: the parts are a function of it.

    Returns:
        A sorted array of indices for each client; together every sample once.

    Raises:
        ValueError: there are too few samples.
    """
    labels = np.asarray(labels)
    _check_enough(len(labels), clients, min_size)
    rng = np.random.default_rng((seed, 0xD1))
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(rng.dirichlet(np.full(clients, concentration))) * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, ends[:-1]), strict=True):
            part += piece.tolist()
    return _at_least(parts, min_size)


def evenly(n: int, clients: int, min_size: int = 1, seed: int = 0) -> list[Indices]:
    """Parts of the same size (but for one sample) at random; see `dirichlet`."""
    _check_enough(n, clients, min_size)
    order = np.random.default_rng((seed, 0xD2)).permutation(n)
    return [np.sort(part) for part in np.array_split(order, clients)]


def by_size(n: int, clients: int, concentration: float = 0.3, min_size: int = 1, seed: int = 0) -> list[Indices]:
    """Parts at random whose sizes come from a Dirichlet distribution; see `dirichlet`."""
    return dirichlet(np.zeros(n, int), clients, concentration, min_size, seed)


def by_folder(folders: Mapping[str, Sequence[int]], clients: int, min_size: int = 1) -> dict[str, Indices]:
    """One client for each folder, under its name.

    Raises:
        ValueError: there are not as many folders as clients, or one has too few samples.
    """
    if len(folders) < 2:
        raise ValueError("split: folders needs several folders, one for each client, as --data.root north south")
    if len(folders) != clients:
        raise ValueError(
            f"clients: {clients} does not go with {len(folders)} folders of data, one for each client; {len(folders)}"
            " works, or split iid, which mixes them"
        )
    for name, indices in folders.items():
        if len(indices) < min_size:
            raise ValueError(
                f"data: the folder {name} has {len(indices)} samples to learn from; at least {min_size} work"
            )
    return {name: np.sort(np.asarray(indices, np.int64)) for name, indices in folders.items()}


def split(
    kind: str, n: int, labels: ArrayLike | None, clients: int, concentration: float, min_size: int, seed: int
) -> list[Indices]:
    """The parts that settings ask for: see `FederateConfig.split`.

    Raises:
        ValueError: too few samples, or labels are needed and there are none.
    """
    if kind == "auto":
        kind = "iid" if labels is None else "dirichlet"
    if kind == "iid":
        return evenly(n, clients, min_size, seed)
    if kind == "sizes":
        return by_size(n, clients, concentration, min_size, seed)
    if labels is None:
        raise ValueError("split: dirichlet needs labels and this data has none; iid or sizes work")
    return dirichlet(labels, clients, concentration, min_size, seed)


def write_manifest(
    path: str | os.PathLike[str], parts: Mapping[str, Sequence[int] | Indices], n: int, tiny: bool = False
) -> None:
    """Keep who has which of `n` samples; `tiny`: of the room in miniature."""
    clients = {name: [int(index) for index in indices] for name, indices in parts.items()}
    write_json(path, {"format_version": FORMAT_VERSION, "samples": n, "tiny": tiny, "clients": clients})


def read_manifest(path: str | os.PathLike[str], n: int) -> dict[str, Indices]:
    """What `write_manifest` kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none, or for another number of samples.
    """
    kept = read_json(path, 2**30)
    try:
        if kept["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{path} has format_version {kept['format_version']!r}; this program reads 1")
        parts = {str(name): np.asarray(indices, np.int64) for name, indices in kept["clients"].items()}
        samples = kept["samples"]
        if any(part.ndim != 1 for part in parts.values()):
            raise TypeError
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError(f"{Path(path)} is not the manifest of a split") from None
    if samples != n or any(len(part) and not 0 <= part.min() <= part.max() < n for part in parts.values()):
        raise ValueError(f"{Path(path)} splits {samples} samples; the data has {n} now")
    return parts


def _check_enough(n: int, clients: int, min_size: int) -> None:
    if n < clients * min_size:
        raise ValueError(
            f"clients: {clients} with at least {min_size} samples each need {clients * min_size}, and there are {n},"
            f" enough for {max(1, n // min_size)}"
        )


def _at_least(parts: list[list[int]], min_size: int) -> list[Indices]:
    for part in parts:
        while len(part) < min_size:
            part.append(max(parts, key=len).pop())
    return [np.sort(np.asarray(part, np.int64)) for part in parts]
