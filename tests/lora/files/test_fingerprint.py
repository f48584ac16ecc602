"""What has not changed is not hashed again, and what has changed is, by whatever way it was written to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lorgnette.lora import fingerprint, inject_lora, merged, record, save_adapter


@pytest.fixture
def hashed(monkeypatch) -> list[torch.Tensor]:
    seen, plain = [], record._hash
    monkeypatch.setattr(record, "_hash", lambda tensor: seen.append(tensor) or plain(tensor))
    return seen


def base() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False))


def test_saving_again_hashes_nothing(hashed, tmp_path):
    model = inject_lora(base(), target_modules=["0"], rank=2)
    save_adapter(model, tmp_path)
    assert len(hashed) == 2
    nn.init.normal_(model[0].lora_B)
    for _ in range(3):
        save_adapter(model, tmp_path)
    assert len(hashed) == 2
    with merged(model):
        assert fingerprint(model) != fingerprint(base())
    assert fingerprint(model) == fingerprint(base())


def exchanged(weight: torch.Tensor) -> None:
    """Exchange x and -x, whose bits differ in the highest place alone."""
    weight.data[3, 5], weight.data[7, 9] = weight[7, 9].item(), weight[3, 5].item()


WRITES = {
    "in place": lambda weight: weight.add_(1),
    "one element": lambda weight: weight[3].__setitem__(5, 7.0),
    "beside autograd": lambda weight: weight.data.mul_(-1),
    "one element beside it": lambda weight: weight.data[3].__setitem__(5, 7.0),
    "other places beside it": lambda weight: weight.data.copy_(weight.data.flip(0)),
    "rows of x and -x beside it": exchanged,
    "other memory": lambda weight: setattr(weight, "data", weight.data + 1),
    "as numpy": lambda weight: weight.detach().numpy().__setitem__((2, 2), 9.0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_whatever_was_written_is_seen(write):
    model = base()
    with torch.no_grad():
        model[1].weight[3, 5] = -model[1].weight[7, 9]
    before = fingerprint(model)
    with torch.no_grad():
        write(model[1].weight)
    fresh = copy.deepcopy(model)
    assert fingerprint(model) != before
    assert fingerprint(model) == fingerprint(fresh)


def test_small_and_unusual_tensors_are_hashed_each_time():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(256, 256)])
    model[1].weight = nn.Parameter(model[1].weight.data.T)  # not contiguous
    before = fingerprint(model)
    model[1].weight.data[0, 1] = 5
    assert fingerprint(model) != before
    model[1].weight = nn.Parameter(torch.zeros(2**17 + 1)[1:].view(256, 512))  # not where eight bytes begin
    assert fingerprint(model) == fingerprint(model)
    with torch.inference_mode():
        made = nn.Linear(256, 256)
    assert fingerprint(made) == fingerprint(made)
