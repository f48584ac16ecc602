"""Which model it is, in this process and in the next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lorgnette.common.identity import identity, lasting_identity

MAKE = "torch.manual_seed(0); model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))"


def made() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "a value": lambda model: model[0].weight.data.neg_(),
    "the order of values": lambda model: model[0].weight.data.copy_(model[0].weight.data.flip(0)),
    "a buffer": lambda model: model[1].running_mean.add_(1),
    "a number": lambda model: setattr(model[1], "eps", 1e-3),
    "a tuple": lambda model: setattr(model[0], "dilation", (2, 2)),
    "a tuple of tuples": lambda model: setattr(model[0], "ranges", ((0, 1), (0, 2))),
    "a setting that is None": lambda model: setattr(model[0], "limit", None),
    "the dtype": lambda model: model.half(),
    "a layer": lambda model: model.append(nn.ReLU()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_outputs_changes_both_identities(what: str):
    model = made()
    CHANGES[what](model)
    assert identity(model) != identity(made())
    assert lasting_identity(model) != lasting_identity(made())


def test_equal_models_have_one_identity_in_either_mode():
    assert identity(made().train()) == identity(made().eval())
    assert lasting_identity(made().train()) == lasting_identity(made().eval())


def test_a_hook_changes_the_identity_in_this_process_alone():
    model = made()
    model[0].register_forward_hook(lambda *_: None)
    assert identity(model) != identity(made())
    assert lasting_identity(model) == lasting_identity(made())


def test_another_process_finds_the_same_lasting_identity():
    code = f"import torch; from torch import nn; from lorgnette.common.identity import lasting_identity; {MAKE}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(lasting_identity(model))"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == lasting_identity(made())
