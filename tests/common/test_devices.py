"""Where a module goes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorgnette.common.devices import to_device


def test_auto_is_an_accelerator_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert to_device(nn.Linear(2, 2), "auto").weight.device.type == "meta"
    assert to_device(nn.Linear(2, 2), "cpu").weight.device.type == "cpu"
    with pytest.raises(ValueError, match=r"^--device: 'nowhere' does not work here; cpu or meta does$"):
        to_device(nn.Linear(2, 2), "nowhere")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert to_device(nn.Linear(2, 2, device="cpu"), "auto").weight.device.type == "cpu"
    with pytest.raises(ValueError, match=r"^--device: 'nowhere' does not work here; cpu does$"):
        to_device(nn.Linear(2, 2), "nowhere")
