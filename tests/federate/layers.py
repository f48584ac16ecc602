"""Random adapters of layers of every kind, and the dense truth that aggregation is held against."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.federate.aggregation.adapter_state import Adapter
from lorgnette.federate.aggregation.aggregate import ClientUpdate, Global, aggregate
from lorgnette.federate.aggregation.schemes import SCHEMES, Scheme


class Raw(nn.Module):
    """A stack of raw matrices, as the scan of the restoration room has."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return x @ lora.effective_parameter(self, "table").mT


KINDS = {
    "wide": lambda: nn.Linear(19, 6),
    "tall": lambda: nn.Linear(4, 23),
    "square": lambda: nn.Linear(8, 8),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "grouped": lambda: nn.Conv2d(6, 9, 3, groups=3),
    "conv3d": lambda: nn.Conv3d(2, 5, 2),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 2),
    "grouped_transposed": lambda: nn.ConvTranspose1d(6, 4, 3, groups=2),
    "embedding": lambda: nn.Embedding(11, 5),
    "raw": Raw,
}


def base_model(seed: int = 0) -> nn.ModuleDict:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.ModuleDict({name: make() for name, make in KINDS.items()})


def adapted(base: nn.ModuleDict, r: int, alpha: float, seed: int, size: float = 1.0) -> nn.ModuleDict:
    """A copy of the base with random factors, both far from zero."""
    model = copy.deepcopy(base)
    config = lora.LoRAConfig(
        r=r,
        lora_alpha=alpha,
        target_modules=[name for name in KINDS if name != "raw"],
        target_parameters=["raw.table"],
    )
    lora.inject_lora(model, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.get_lora_params(model):
        parameter.data = size * torch.randn(parameter.shape, generator=generator)
    return model


def weights(model: nn.ModuleDict) -> dict[str, Tensor]:
    """What each layer applies, dense, by the layers' own code."""
    found = {}
    for name, module in model.items():
        parameter = "table" if name == "raw" else "weight"
        found[name] = lora.effective_parameter(module, parameter).detach().double()
    return found


def plain_weights(base: nn.ModuleDict) -> dict[str, Tensor]:
    return {n: getattr(m, "table" if n == "raw" else "weight").detach().double() for n, m in base.items()}


def worst_error(
    scheme: str | Scheme, ranks: list[int], alphas: list[float], sizes: list[float], round: int = 1
) -> float:
    """The largest relative error, over all layers, of the merged result against the dense mean of the clients'."""
    chosen = SCHEMES[scheme] if isinstance(scheme, str) else scheme
    base = base_model()
    top = max(ranks)
    server = adapted(base, top, 3.0, seed=99)
    before = Adapter(server).read()
    updates, truth = [], {name: torch.zeros_like(w) for name, w in plain_weights(base).items()}
    for number, (r, alpha, size) in enumerate(zip(ranks, alphas, sizes, strict=True)):
        model = adapted(base, r, alpha, seed=number)
        client = Adapter(model)
        trained = chosen.trains(round)
        if trained != "AB":  # the factor that is not trained is the one that was sent, in the client's own strength
            own, sent = client.read(), before.at(r)
            factors = {
                name: product._replace(A=sent.factors[name].A)
                if trained == "B"
                else product._replace(B=sent.factors[name].B)
                for name, product in own.factors.items()
            }
            client.write(type(own)(factors, own.tensors))
        for name, weight in weights(model).items():
            truth[name] += size / sum(sizes) * (weight - plain_weights(base)[name])
        updates.append(ClientUpdate(f"client {number}", size, client.read()))
    result = aggregate(chosen, Global(before), updates, round)
    receiver = adapted(base, top, 0.7, seed=123)  # another strength: what arrives holds it
    Adapter(receiver).write(result.after.adapter, result.after.folded)
    plain = plain_weights(base)
    return max(
        float((weight - plain[name] - truth[name]).norm() / truth[name].norm())
        for name, weight in weights(receiver).items()
    )
