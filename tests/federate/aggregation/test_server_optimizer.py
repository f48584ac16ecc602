"""The server's optimiser: its formulas, at learning rates other than one."""

from __future__ import annotations

import math

import pytest
import torch

from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.aggregation.server_optimizer import BETA2, EPSILON, ServerOptimizer

LR, SHARE = 0.25, 0.9


def test_momentum_moves_by_the_rate_times_what_is_remembered():
    optimizer = ServerOptimizer("momentum", LR, SHARE)
    before, changes = torch.tensor([1.0, -2.0]), [torch.tensor([0.4, 0.8]), torch.tensor([-0.2, 0.6])]
    value, remembered = before.double(), torch.zeros(2, dtype=torch.float64)
    for change in changes:
        remembered = SHARE * remembered + change.double()
        expected = value + LR * remembered
        value = optimizer.tensor("w", value, value + change)
        torch.testing.assert_close(value, expected)


def test_momentum_of_products_is_that_of_their_matrices():
    optimizer, of_tensors = ServerOptimizer("momentum", LR, SHARE), ServerOptimizer("momentum", LR, SHARE)
    torch.manual_seed(0)

    def product() -> Product:
        return Product(torch.randn(2, 5), torch.randn(4, 2))

    value, mean = product(), product()
    as_tensor = value.B.double() @ value.A.double()
    for _ in range(2):
        value, matrix = optimizer.product("w", value, mean), mean.B.double() @ mean.A.double()
        as_tensor = of_tensors.tensor("w", as_tensor, matrix)
        torch.testing.assert_close(value.B.double() @ value.A.double(), as_tensor, rtol=1e-4, atol=1e-5)
        mean = product()


@pytest.mark.parametrize("lr", [0.1, 2.0])
def test_adam_moves_by_the_rate_whatever_the_size_of_the_change(lr: float):
    optimizer = ServerOptimizer("adam", lr, SHARE)
    change = 0.3
    moved = optimizer.tensor("w", torch.tensor([1.0]), torch.tensor([1.0 + change])) - 1
    first, second = (1 - SHARE) * change, (1 - BETA2) * change**2
    assert moved.item() == pytest.approx(lr * first / (math.sqrt(second) + EPSILON), rel=1e-5)
