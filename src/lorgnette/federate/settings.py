"""How a federation runs: its settings, and the table of schemes in words. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lorgnette.common.values import check_choices

SchemeName = Literal["svd", "fedavg", "ffa", "stack", "residual", "alternating"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

LINEAR_SCHEMES = ("fedavg", "ffa", "alternating")
"""Schemes that need no more than the sum of what clients send: secure aggregation and a server Adam work with these."""


@dataclass(frozen=True)
class FederateConfig:
    """Rounds in which clients train one adapter, each on its own data; only adapters travel."""

    clients: int = 8
    """How many clients the data is split over. With one folder for each: as many as folders."""
    rounds: int = 20
    """Rounds of training and aggregating."""
    scheme: SchemeName = "svd"
    """How updates become one: svd (FlexLoRA), fedavg, ffa (A frozen), stack (FLoRA), residual (FedEx-LoRA),
    alternating (RoLoRA)."""
    local_steps: int = 10
    """Optimiser steps of a client in a round."""
    fraction: float = 1.0
    """Share of the clients that is asked in a round, in (0, 1]."""
    quorum: float = 0.5
    """Share of those asked whose updates are needed, in (0, 1]; with fewer the round changes nothing."""
    deadline: float | None = None
    """Seconds after which a round closes without those who have not answered. null: it waits for all."""
    weights: Literal["samples", "equal"] = "samples"
    """Clients count by the samples they have, or all alike."""
    ranks: tuple[int, ...] = ()
    """Largest ranks of the clients, in turn: (4, 8, 16) gives the first client 4, the fourth 4 again. Unset: all
    have the rank of the recipe."""
    precision: Precision = "fp32"
    """What an update travels in. Of all but fp32 the sender keeps the rounding error and adds it next time."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate falls over the rounds."""
    final_lr_ratio: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    proximal: float = 0.0
    """FedProx: half this times the squared distance from the round's start is added to the loss."""
    server_optimizer: Literal["none", "momentum", "adam"] = "none"
    """How the server applies the mean update: takes it, with momentum (FedAvgM), or with Adam (FedAdam)."""
    server_lr: float | None = None
    """Its learning rate. Unset: 1 (adam: 0.01)."""
    server_momentum: float = 0.9
    """Its momentum (adam: the first beta), in [0, 1)."""
    clip: float = 0.0
    """A client scales its update down to this L2 norm before it is sent. 0: never."""
    noise: float = 0.0
    """Deviation of the Gaussian noise that a client adds to its clipped update, in multiples of clip."""
    personal: tuple[str, ...] = ()
    """Names of adapted layers or unfrozen modules that stay at home: each client has its own."""
    client_metrics: bool = False
    """Every client scores what it has trained on the held-out data (always, with personal layers)."""
    patience: int = 0
    """Stop after this many rounds in a row without a better one. 0: never."""
    split: Literal["auto", "folders", "dirichlet", "iid", "sizes"] = "auto"
    """How data is split: a folder for each client, by a Dirichlet draw for each label, evenly, or evenly into clients
    of unequal size. auto: folders where several are given, else dirichlet where there are labels, iid elsewhere."""
    concentration: float = 0.3
    """Of the Dirichlet draws: small for clients unlike each other."""
    min_size: int = 1
    """Samples that every client has at least."""
    seed: int = 0
    """Of the split, the choice of clients, and their training."""

    def __post_init__(self) -> None:
        check_choices(self, "")
        for name, least in {
            "clients": 1, "rounds": 0, "local_steps": 1, "patience": 0, "min_size": 1, "seed": 0,
        }.items():  # fmt: skip
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: {getattr(self, name)} is too small; at least {least} works")
        for name in ("fraction", "quorum"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is outside (0, 1]; 1 is all")
        for name in ("proximal", "clip", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is not a number of at least 0")
        for name in ("deadline", "server_lr", "concentration"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: {value} is not a positive number")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"final_lr_ratio: {self.final_lr_ratio} is outside [0, 1]")
        if not 0 <= self.server_momentum < 1:
            raise ValueError(f"server_momentum: {self.server_momentum} is outside [0, 1); 0.9 is usual")
        if any(rank < 1 for rank in self.ranks):
            raise ValueError(f"ranks: {self.ranks} are not all at least 1")
        if self.noise and not self.clip:
            raise ValueError(f"noise: {self.noise} is in multiples of clip, which is 0; clip 1 is usual")
        if self.server_optimizer == "adam" and self.scheme not in LINEAR_SCHEMES:
            raise ValueError(
                f"server_optimizer: adam moves each weight by itself, and {self.scheme} gives the factors new axes each"
                f" round; momentum works with it, adam with {', '.join(LINEAR_SCHEMES)}"
            )

    def rank_of(self, position: int) -> int | None:
        """The largest rank of the client at this place in the sorted list of all; None for that of the recipe."""
        return self.ranks[position % len(self.ranks)] if self.ranks else None


@dataclass(frozen=True)
class Settings:
    """The settings as the one group of a recipe, for `lorgnette.settings`."""

    federate: FederateConfig = field(default_factory=FederateConfig)
    """How it runs."""
